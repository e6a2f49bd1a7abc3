"""Which rank this process is, whoever started it: ``deepspeed``, ``torchrun``, ``mpirun`` or ``srun``.

The first two say so in RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which is what torch reads and what
all of salad_ds asks. MPI and SLURM have words of their own for the first three, and none for the last two:
launchers/mpi.sh and launchers/slurm.sbatch export those. LOCAL_RANK is also the number of a rank's GPU among those that
it sees, for DeepSpeed too.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from salad_ds.environment import free_port
from salad_ds.errors import SaladError, Stopped

OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
WORDS = {
    "Open MPI": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE")),
    "MPICH": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS"),
    "SLURM": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),
}
"""Launcher: its names for OURS. The batch shell of a SLURM job is no rank, and lacks the last two."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
STOPPED = "SALAD_DS_STOPPED"
"""A file that a rank makes which was told to stop, for a launcher that takes every exit code but 0 for a failure:
torchrun would start all ranks again."""


def adopt_rank(variables: MutableMapping[str, str] = os.environ) -> None:
    """Say in torch's words what MPI or SLURM has said, if one of them started several ranks and nothing else did; and
    which GPU is ours where a rank sees one only."""
    if "RANK" not in variables:
        launcher = next((word for word, names in WORDS.items() if all(name in variables for name in names)), "")
        if not launcher:
            return
        rank, local, size, beside = (variables[name] for name in WORDS[launcher])
        if int(size) == 1:
            return
        beside = beside.replace("(", ",").split(",")[0]  # SLURM: 8(x2),4 for three machines; not told which is ours
        variables.update(zip(OURS, (rank, local, size, beside), strict=True))
        if launcher == "SLURM":
            variables.setdefault("MASTER_ADDR", first_host(variables.get("SLURM_STEP_NODELIST", "")))
            variables.setdefault("MASTER_PORT", str(20000 + int(variables.get("SLURM_JOB_ID", "0")) % 20000))
    if sees_one_gpu(variables):
        variables["LOCAL_RANK"] = "0"


def first_host(names: str) -> str:
    """Of SLURM's list, such as ``rack[3-5,9]n[01-12],login``: ``rack3n01``."""
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", re.split(r",(?![^\[]*\])", names)[0])


def sees_one_gpu(variables: MutableMapping[str, str]) -> bool:
    """Whether the launcher gave every rank a GPU of its own to see, such as ``srun --gpus-per-task=1``: to each of them
    it is number 0, whatever its place on the machine."""
    given = next((variables[name] for name in VISIBLE if variables.get(name)), "")
    return bool(given) and "," not in given and int(variables.get("LOCAL_WORLD_SIZE") or "1") > 1


def gpu() -> int:
    """Number of this rank's GPU, which LOCAL_RANK has from now on. Raises SaladError where there is none: more ranks
    than GPUs."""
    import torch

    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local < there:
        return local
    if there == 1 and any(os.environ.get(name) for name in VISIBLE):
        os.environ["LOCAL_RANK"] = "0"
        return 0
    raise SaladError(f"rank {os.environ.get('RANK', '0')} is number {local} on its machine, and sees {there} GPUs",
                     "start as many ranks as GPUs, or give each rank one to see (CUDA_VISIBLE_DEVICES)")


def several_hosts() -> bool:
    """Whether ranks run on other machines too; unknown counts as yes where there are several ranks."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return size > int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")


def meet() -> None:
    """What torch needs of a process that no launcher started: it is alone. Between hosts, the interface to the others.

    Raises SaladError for several ranks of which nothing says where they meet: they can divide work by their numbers,
    but not speak to each other.
    """
    size, place = os.environ.get("WORLD_SIZE", "1"), [os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")]
    if int(size) > 1 and not all(place):
        raise SaladError(f"there are {size} ranks, and MASTER_ADDR and MASTER_PORT do not say where they meet",
                         "start them with launchers/mpi.sh or launchers/slurm.sbatch, which do")
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port())
    from salad_ds.cluster.network import choose_interface

    choose_interface()


def exit_code(code: int) -> int:
    """What to end with so that the launcher takes ``code`` for what it is."""
    marker = os.environ.get(STOPPED)
    if code != Stopped.code or not marker:
        return code
    Path(marker).touch()
    return 0
