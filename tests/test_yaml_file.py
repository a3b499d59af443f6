"""YAML as people mean it, and lines where it cannot be."""

import pytest

from ipu_chem.yaml_file import located, read_yaml


def test_numbers_are_those_that_people_write(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "\ufeffa: 1e-3\nb: 010\nc: 1:30\nd: 2024-01-02\ne: 1_000\nf: 0x10\n"
        "g: .5\nh: yes\ni:\nj: '1'\nk: 1.5e3\nl: -.inf\n"
    )
    assert read_yaml(file) == {
        **{"a": 1e-3, "b": 10, "c": "1:30", "d": "2024-01-02", "e": 1000, "f": 16, "g": 0.5, "h": True, "i": None},
        **{"j": "1", "k": 1500.0, "l": float("-inf")},
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4: c is given twice, first on line 3"),
        ("a: 1\n\tb: 2\n", "line 2: .*indent with blanks"),
        ("- 1\n", "must hold options"),
        ("a: [1\n", "line 2: this is no YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_yaml(tmp_path / "a.yaml")


def test_errors_find_the_file_and_line_of_their_option(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("training:\n  epochs: 0\nloss: mse\n")
    two.write_text("loss: msee\n")
    error = ValueError("training.epochs=0: give 1.")
    assert str(located([one, two], error)) == f"{one}, line 2: training.epochs=0: give 1."
    assert str(located([one, two], ValueError("loss='msee': choose"))).startswith(f"{two}, line 1: ")
    assert located([one, two], error, {"training.epochs": 0}) is error  # the command line has said it
