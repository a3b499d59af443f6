"""Distances of molecules from those that a run was trained on, in the space of what its model has learned of them.

The features of a molecule are those that the model's head takes, averaged over atoms. Their distance is that of
Mahalanobis, in units that make the training molecules about 1: sqrt((x - m) C^-1 (x - m) / F) with mean m and
covariance C of the training molecules (K. Lee et al., NeurIPS 2018, arXiv:1807.03888; latent distances as a measure of
doubt: J. P. Janet et al., Chem. Sci. 10, 7913 (2019)). A molecule is outside of the domain if it is farther than all
but one in a thousand of the validation molecules, which the model has not seen either.
"""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

from packing.arrays import open_arrays
from packing.files import PathLike, atomic_file

FILE = "domain.npz"  # inside the folder of a run
INSIDE = 0.999  # of the validation molecules
_SHRINKAGE = 1e-3  # of the mean variance, added to every variance: features of few molecules do not vary in all ways


class Domain(NamedTuple):
    """Training molecules in features.

    Attributes:
        mean: [F] float64.
        whitening: [F, F] float64, W with W C W^T = 1, C the covariance.
        limit: distance beyond which a molecule is outside.
        held_out: [K] float64, distances of the test molecules in the order of their split; none without.
        checkpoint: whose features these are, as `ipu_chem.uncertainty.residuals.checkpoint_of` names it.
    """

    mean: np.ndarray
    whitening: np.ndarray
    limit: float
    held_out: np.ndarray
    checkpoint: Sequence[float]

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Distances [K] float64 of molecules with features [K, F]."""
        scaled = (np.asarray(features, np.float64) - self.mean) @ self.whitening.T
        return np.sqrt(np.square(scaled).mean(1))


def domain_of(
    train: np.ndarray, validation: np.ndarray, test: np.ndarray, checkpoint: Sequence[float] = (0.0, 0.0)
) -> Domain:
    """The domain of training molecules, bounded by validation molecules.

    Args:
        train: [K, F], features of training molecules, or of enough of them.
        validation: [V, F], of which there is one at least.
        test: [T, F]; may have no rows.
        checkpoint: see `Domain`.
    """
    train = np.asarray(train, np.float64)
    mean = train.mean(0)
    centered = train - mean
    covariance = centered.T @ centered / max(len(train) - 1, 1)
    variance = float(np.trace(covariance)) / len(mean)
    covariance[np.diag_indices_from(covariance)] += _SHRINKAGE * variance if variance > 0 else 1.0
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    made = Domain(mean, whitening, 0.0, np.zeros(0), list(checkpoint))
    rising = np.sort(made.distances(validation))
    limit = float(rising[min(int(np.ceil(INSIDE * len(rising))), len(rising)) - 1])
    return made._replace(limit=limit, held_out=made.distances(test) if len(test) else np.zeros(0))


def write_domain(folder: PathLike, domain: Domain) -> Path:
    """Write the domain of a run into its folder, atomically, with a checksum.

    Raises:
        OSError: the disk is full or not writable; what was there is kept.
    """
    arrays: Dict[str, Any] = {}
    for name in ("mean", "whitening", "held_out"):
        arrays[name] = np.asarray(getattr(domain, name), np.float64)
    about = json.dumps({"limit": domain.limit, "checkpoint": list(domain.checkpoint)})
    arrays["about"] = np.frombuffer(about.encode(), np.uint8)
    path = Path(folder) / FILE
    with atomic_file(path) as file:
        np.savez(file, **arrays, blake2b=np.frombuffer(_digest(arrays), np.uint8))
    return path


def read_domain(folder: PathLike) -> Domain:
    """The domain from the folder of a run, compared with its checksum.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged.
    """
    path = Path(folder) / FILE
    try:
        with open_arrays(path) as opened:
            arrays = {name: opened[name] for name in opened.files}
        if arrays.pop("blake2b").tobytes() != _digest(arrays):
            raise ValueError("its checksum does not match")
        about: Dict[str, Any] = json.loads(arrays.pop("about").tobytes().decode())
        checkpoint: List[float] = about["checkpoint"]
        return Domain(arrays["mean"], arrays["whitening"], about["limit"], arrays["held_out"], checkpoint)
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError, OSError, zlib.error) as error:
        reason = str(error).replace(f"{path} ", "").rstrip(".")
        remedy = f"`ipu-chem evaluate {folder} --calibrate` makes it anew"
        raise ValueError(f"{path} is damaged ({reason}); {remedy}.") from None


def _digest(arrays: Dict[str, np.ndarray]) -> bytes:
    """Checksum of names, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
