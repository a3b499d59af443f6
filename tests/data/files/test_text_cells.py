"""Cells of tables that are written: names are text, to a spreadsheet too."""

import pytest

from ipu_chem.data.files.text import as_text


@pytest.mark.parametrize("cell", ["=1+1", "=HYPERLINK(1)", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_is_text(cell):
    assert as_text(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "CCO", "[Na+].[Cl-]", "C=O", "(-)-menthol", "-12.5", "+1e-3", "-inf", "1-2"])
def test_smiles_names_and_numbers_stay(cell):
    assert as_text(cell) == cell
