"""The corpora that have a name: where their file lies or is downloaded from, their license, and what to cite."""

import os
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Tuple

from ipu_chem.data.download import download

_ZINC = "J. J. Irwin, B. K. Shoichet, J. Chem. Inf. Model. 45, 177 (2005) (ZINC)"


class Source(NamedTuple):
    """A corpus that has a name.

    Attributes:
        what: in a few words.
        licence: of the molecules.
        citation: what to cite.
        file: its name in the cache, and in a folder given as path.
        url: where it is downloaded from; "" if it is not.
        bytes, sha256: of the published file; 0 and "" if they are not known.
        with_split: its column "split" is kept.
    """

    what: str
    licence: str
    citation: Tuple[str, ...] = ()
    file: str = ""
    url: str = ""
    bytes: int = 0
    sha256: str = ""
    with_split: bool = False


CORPORA: Dict[str, Source] = {
    "nci": Source(
        "4,999 structures of the NCI open compound collection, shipped with RDKit",
        "file shipped with RDKit (BSD-3-Clause); NCI DTP open compound collection",
        ("J. H. Voigt et al., J. Chem. Inf. Comput. Sci. 41, 702 (2001) (NCI open database)",),
        "first_5K.smi",
    ),
    "moses": Source(
        "MOSES: 1,936,962 molecules of ZINC Clean Leads, split into train, test and test_scaffolds",
        "MIT (MOSES); ZINC is free to use",
        ("D. Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020) (MOSES)", _ZINC),
        "dataset_v1.csv",
        "https://media.githubusercontent.com/media/molecularsets/moses/master/data/dataset_v1.csv",
        84_482_588,
        "bb47a94d347afd476d3828b5e26dceeabc42a2d8cf92a791d00349f22fea0d8b",
        with_split=True,
    ),
    "pubchem10m": Source(
        "10 million molecules of PubChem, chosen for ChemBERTa",
        "PubChem sets no conditions of its own on its data; contributors may",
        (
            "S. Chithrananda, G. Grand, B. Ramsundar, arXiv:2010.09885 (2020) (ChemBERTa, PubChem 10M)",
            "S. Kim et al., Nucleic Acids Res. 51, D1373 (2023) (PubChem)",
        ),
        "pubchem_10m.txt.zip",
        "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/pubchem_10m.txt.zip",
    ),
    "zinc250k": Source(
        "249,455 drug-like molecules of ZINC",
        "ZINC is free to use; large parts of it may not be passed on without its authors' consent",
        ("R. Gomez-Bombarelli et al., ACS Cent. Sci. 4, 268 (2018) (the choice of 250k)", _ZINC),
        "250k_rndm_zinc_drugs_clean_3.csv",
        "https://raw.githubusercontent.com/aspuru-guzik-group/chemical_vae/master/models/zinc_properties/"
        "250k_rndm_zinc_drugs_clean_3.csv",
    ),
    "chembl": Source(
        "ChEMBL's compounds, from chembl_NN_chemreps.txt.gz of one of its releases",
        "CC BY-SA 3.0 (ChEMBL, EMBL-EBI)",
        ("B. Zdrazil et al., Nucleic Acids Res. 52, D1180 (2024) (ChEMBL)",),
    ),
    "file": Source("molecules of the user's own", "the user's own"),
}


def find_file(name: str, path: Optional[Path], cache: Path) -> Path:
    """The file of a corpus: the path given, or what ships with RDKit or is downloaded into the cache.

    Raises:
        ValueError: it is not there and cannot be fetched; says which file to put where.
    """
    source = CORPORA[name]
    if path is not None:
        if path.is_dir() and source.file and (path / source.file).is_file():
            return path / source.file
        if not path.is_file():
            hint = f" ({name} is {source.file})" if source.file else ""
            raise ValueError(f"there is no file {path}{hint}.")
        return path
    if name == "nci":
        from rdkit import RDConfig

        return Path(os.path.join(RDConfig.RDDataDir, "NCI", source.file))
    if not source.url:
        where = " (https://ftp.ebi.ac.uk/pub/databases/chembl/ChEMBLdb/latest)" if name == "chembl" else ""
        raise ValueError(f"corpus {name} is {source.what}{where}; pass the path of that file.")
    file = cache / source.file
    return download(name, source.url, file, source.bytes, source.sha256)
