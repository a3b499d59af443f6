"""The mutations still fit the code that they break; `python tests/mutations.py` tries them."""

import ast

import pytest
from mutations import MUTATIONS, ROOT, Mutation, apply


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_is_a_change_that_compiles(mutation, tmp_path):
    path = tmp_path / mutation.path
    path.parent.mkdir(parents=True)
    before = (ROOT / mutation.path).read_text(encoding="utf-8")
    path.write_text(before, encoding="utf-8")
    apply(mutation, tmp_path)
    after = path.read_text(encoding="utf-8")
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


def test_a_mutation_that_no_longer_fits_is_refused(tmp_path):
    (tmp_path / "module.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="module.py has 'y = 1' 0 times; bring the mutation up to date"):
        apply(Mutation("gone", "module.py", "y = 1", "y = 2"), tmp_path)
