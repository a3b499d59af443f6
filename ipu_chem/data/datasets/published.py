"""Errors that papers report on these data sets, to be read beside one's own."""

from typing import Dict

from ipu_chem.units import KCAL_PER_MOL

# MAE of a component of forces on the original MD17, 1,000 training frames with energies and forces, kcal/mol/Å.
# SchNet: K. T. Schuett et al., J. Chem. Phys. 148, 241722 (2018), table II. PaiNN: K. T. Schuett, O. T. Unke,
# M. Gastegger, ICML 2021, arXiv:2102.03150, table 2.
_MD17_FORCES = {
    "aspirin": {"SchNet 2018": 1.35, "PaiNN 2021": 0.371},
    "benzene": {"SchNet 2018": 0.31},
    "ethanol": {"SchNet 2018": 0.39, "PaiNN 2021": 0.230},
    "malonaldehyde": {"SchNet 2018": 0.66, "PaiNN 2021": 0.319},
    "naphthalene": {"SchNet 2018": 0.58, "PaiNN 2021": 0.083},
    "salicylic": {"SchNet 2018": 0.85, "PaiNN 2021": 0.209},
    "toluene": {"SchNet 2018": 0.57, "PaiNN 2021": 0.102},
    "uracil": {"SchNet 2018": 0.56, "PaiNN 2021": 0.140},
}


def md17_errors(molecule: str) -> Dict[str, Dict[str, float]]:
    """Metric -> whose -> error, by `ipu_chem.metrics.Target.metric` and in its unit; empty where we know none."""
    forces = {f"{who} on MD17": error * KCAL_PER_MOL * 1000 for who, error in _MD17_FORCES.get(molecule, {}).items()}
    return {"mae_forces_meV_per_A": forces} if forces else {}
