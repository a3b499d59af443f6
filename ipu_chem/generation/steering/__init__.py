"""Generation that keeps what a chemist gives: scaffolds, linkers, decorations, motifs, elements.

A model writes molecules from left to right, so what is kept is spelled as tokens that it continues, or that are put
where they are likely; RDKit then reads every molecule, and those that lack what was given are drawn again.
"""
