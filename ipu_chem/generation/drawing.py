"""Molecules as a grid of pictures, in SVG text that a page can hold."""

import math
from typing import Optional, Sequence, Tuple


def grid_svg(
    smiles: Sequence[str],
    legends: Optional[Sequence[str]] = None,
    columns: int = 4,
    panel: Tuple[int, int] = (220, 180),
) -> str:
    """Draw molecules row by row.

    Args:
        smiles: of 1 or more molecules.
        legends: a text below each.
        columns: molecules of a row.
        panel: width and height of one molecule, pixels.

    Returns:
        An <svg> element, without an XML header.

    Raises:
        ValueError: no molecule, one that RDKit cannot parse, or not as many legends.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    if not smiles or columns < 1:
        raise ValueError("a picture needs one molecule and one column or more.")
    if legends is not None and len(legends) != len(smiles):
        raise ValueError(f"{len(legends)} legends for {len(smiles)} molecules: give one each, or none.")
    with rdBase.BlockLogs():
        mols = [Chem.MolFromSmiles(text) for text in smiles]
    for text, mol in zip(smiles, mols):
        if mol is None or mol.GetNumAtoms() == 0:
            raise ValueError(f"{text!r} cannot be drawn: RDKit reads no molecule in it.")
    columns = min(columns, len(mols))
    width, height = panel
    drawer = rdMolDraw2D.MolDraw2DSVG(width * columns, height * math.ceil(len(mols) / columns), width, height)
    drawer.DrawMolecules(mols, legends=None if legends is None else list(legends))
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    return text[text.index("<svg") :]
