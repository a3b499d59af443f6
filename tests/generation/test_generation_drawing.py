"""Pictures of molecules: one panel each, well-formed, and refusals."""

import re
from xml.etree import ElementTree

import pytest

from ipu_chem.generation.drawing import grid_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_one_panel_for_each_molecule():
    root = ElementTree.fromstring(grid_svg(["CCO", "c1ccccc1", "CCN"], columns=2, panel=(100, 80)))
    assert root.tag == f"{SVG}svg" and root.get("viewBox") == "0 0 200 160"
    corners = [[float(n) for n in re.findall(r"[\d.]+", path.get("d"))[:2]] for path in root.iter(f"{SVG}path")]
    panels = {(int(x // 100), int(y // 80)) for x, y in corners}
    assert panels == {(0, 0), (1, 0), (0, 1)}


def test_a_single_row_is_as_wide_as_its_molecules():
    assert ElementTree.fromstring(grid_svg(["CCO"], columns=4, panel=(90, 70))).get("viewBox") == "0 0 90 70"


def test_legends_are_drawn():
    plain, named = (len(grid_svg(["CCO", "CCN"], legends)) for legends in (None, ["ethanol", "ethylamine"]))
    assert named > plain + 500  # letters are paths


def test_what_cannot_be_drawn_is_refused():
    for smiles in ("C1CC", ""):
        with pytest.raises(ValueError, match=f"'{smiles}' cannot be drawn"):
            grid_svg(["C", smiles])
    with pytest.raises(ValueError, match="one molecule"):
        grid_svg([])
    with pytest.raises(ValueError, match="1 legends for 2"):
        grid_svg(["C", "CC"], ["methane"])
