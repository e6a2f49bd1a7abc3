"""Which rank this process is, whoever started it: ``deepspeed``, ``torchrun``, ``mpirun`` or ``srun``.

The first two say so in RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which is what torch reads and what
all of salad_ds asks. MPI and SLURM have words of their own for the first three, and none for the last two:
launchers/mpi.sh and launchers/slurm.sbatch export those.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from salad_ds.environment import free_port
from salad_ds.errors import SaladError

OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
WORDS = {
    "Open MPI": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE")),
    "MPICH": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS"),
    "SLURM": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),
}
"""Launcher: its names for OURS. The batch shell of a SLURM job is no rank, and lacks the last two."""


def adopt_rank(variables: MutableMapping[str, str] = os.environ) -> None:
    """Say in torch's words what MPI or SLURM has said, if one of them started several ranks and nothing else did.

    Raises SaladError where nothing says at which address they meet.
    """
    if "RANK" in variables:
        return
    launcher = next((word for word, names in WORDS.items() if all(name in variables for name in names)), "")
    if not launcher:
        return
    rank, local, size, beside = (variables[name] for name in WORDS[launcher])
    if int(size) == 1:
        return
    if not (variables.get("MASTER_ADDR") and variables.get("MASTER_PORT")):
        raise SaladError(f"{launcher} started {size} ranks, and MASTER_ADDR and MASTER_PORT do not say where they meet",
                         "start them with launchers/mpi.sh or launchers/slurm.sbatch, which do")
    beside = beside.replace("(", ",").split(",")[0]  # SLURM: 8(x2),4 for three machines; not told which is ours
    variables |= dict(zip(OURS, (rank, local, size, beside), strict=True))


def meet() -> None:
    """What torch needs of a process that no launcher started: it is alone."""
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port())
