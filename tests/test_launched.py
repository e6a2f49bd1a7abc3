"""Which rank a process is, in the words of every launcher."""

from __future__ import annotations

import pytest

from salad_ds.errors import SaladError
from salad_ds.launched import adopt_rank

MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4",
       "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}  # fmt: skip
SLURM = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "20",
         "SLURM_STEP_TASKS_PER_NODE": "8(x2),4"}  # fmt: skip
ASKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (MPI, ("3", "1", "4", "2")),
        (SLURM, ("9", "1", "20", "8")),
        ({"PMI_RANK": "0", "MPI_LOCALRANKID": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "1"}, ("0", "0", "2", "1")),
        (MPI | dict(zip(ASKED, "0012", strict=True)), ("0", "0", "1", "2")),  # deepspeed inside an MPI job counts
    ],
)
def test_torch_is_told_what_the_launcher_said(said, told):
    variables = said | MEETING
    adopt_rank(variables)
    assert tuple(variables[name] for name in ASKED) == told


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"},  # the batch shell of a job is no rank
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # an interactive shell: alone
    ],
)
def test_a_process_that_is_no_rank_is_left_alone(said):
    variables = dict(said)
    adopt_rank(variables)
    assert variables == said


def test_ranks_that_cannot_meet_are_told_how_to_start():
    with pytest.raises(SaladError, match="Open MPI started 4 ranks") as error:
        adopt_rank(dict(MPI))
    assert "launchers/mpi.sh" in error.value.mend
