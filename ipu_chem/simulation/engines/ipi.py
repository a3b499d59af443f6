"""A trained run as a client of i-PI, through ASE's socket client, which converts units; i-PI moves the atoms."""

from typing import Any, Optional

import numpy as np

from ipu_chem.simulation.engines.molecule import refuse_charge


def serve_ipi(
    atoms: Any,
    calculator: Any,
    unixsocket: Optional[str] = None,
    host: str = "localhost",
    port: int = 31415,
    timeout: Optional[float] = None,
) -> None:
    """Answer i-PI until it ends; several clients share the beads of a path integral.

    i-PI sends positions and a cell alone: elements, charge and spin are those of ``atoms``, in the order of i-PI's
    structure, and the cell says nothing as long as it stays. Errors end the client and close its connection.

    Args:
        atoms: ase.Atoms, free; stays as it is.
        calculator: of `ipu_chem.simulation.calculator`.
        unixsocket: address of an ffsocket in mode unix; None connects to host and port, mode inet.
        host: of i-PI.
        port: of i-PI.
        timeout: s, for each message; None waits.

    Raises:
        ValueError: nobody listens there, the molecule is one that the run cannot take, or the cell changes.
    """
    from ase.calculators.socketio import SocketClient

    atoms = atoms.copy()
    calculator.check(atoms)
    refuse_charge(calculator.members, atoms.info, atoms.get_chemical_formula())
    atoms.calc = calculator
    try:
        client = SocketClient(host=host, port=port, unixsocket=unixsocket, timeout=timeout)
    except OSError as error:
        place = f"the socket /tmp/ipi_{unixsocket}" if unixsocket else f"{host}:{port}"
        raise ValueError(
            f"no i-PI listens at {place} ({error.strerror or error}); start `i-pi input.xml` first, with the same "
            "address in its ffsocket."
        ) from None
    first = None
    try:
        for _ in client.irun(atoms, use_stress=False):
            first = atoms.cell.array.copy() if first is None else first
            if not np.allclose(atoms.cell.array, first, rtol=1e-9):
                raise ValueError(
                    "i-PI changes its cell, but a free molecule has no pressure to do so; use dynamics of mode nve or "
                    "nvt in its input."
                )
    finally:
        client.close()
