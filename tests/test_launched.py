"""Which rank a process is, in the words of every launcher; which GPU is its own; what it ends with."""

from __future__ import annotations

import os

import pytest

from salad_ds.data.parts import Part, ranks
from salad_ds.errors import SaladError
from salad_ds.launched import STOPPED, adopt_rank, exit_code, first_host, gpu, meet, several_hosts

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


@pytest.fixture
def said(monkeypatch):
    """Make this process one that a launcher has started with these variables."""
    for name in (*ASKED, *MEETING, "CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", STOPPED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def say(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return say


def test_ranks_that_need_not_meet_divide_their_work(said):
    """``mpirun -n 4 salad-ds prepare``: only what needs a process group asks where they meet."""
    variables = dict(MPI)
    adopt_rank(variables)
    said({name: variables[name] for name in ASKED})
    assert ranks() == Part(3, 4)
    with pytest.raises(SaladError, match="there are 4 ranks, and MASTER_ADDR and MASTER_PORT do not say") as error:
        meet()
    assert "launchers/mpi.sh" in error.value.mend


def test_ranks_of_srun_meet_on_the_first_host():
    """``srun -n 20 salad-ds prepare``, without the batch script."""
    variables = SLURM | {"SLURM_STEP_NODELIST": "gpu[07-09]", "SLURM_JOB_ID": "20123"}
    adopt_rank(variables)
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("gpu07", "20123")
    variables = SLURM | {"SLURM_STEP_NODELIST": "gpu[07-09]"} | MEETING
    adopt_rank(variables)
    assert variables["MASTER_ADDR"] == "node1", "what the batch script says counts"


@pytest.mark.parametrize(
    ("names", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[01-12,20],m", "n01"), ("r[3-5,9]n[0-7]-ib", "r3n0-ib"), ("a[2,4]", "a2")],
)
def test_the_first_of_slurms_hosts(names, first):
    assert first_host(names) == first


@pytest.mark.parametrize(
    ("visible", "beside", "local"),
    [("0", "8", "0"), ("GPU-8f2a", "2", "0"), ("0,1,2,3", "8", "1"), ("", "8", "1"), ("0", "1", "1")],
)
def test_a_rank_that_sees_one_gpu_takes_it(visible, beside, local):
    """``srun --gpus-per-task=1``: each rank sees its own GPU alone, as number 0."""
    variables = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": beside,
                 "CUDA_VISIBLE_DEVICES": visible}  # fmt: skip
    adopt_rank(variables)
    assert variables["LOCAL_RANK"] == local
    variables = SLURM | MEETING | {"CUDA_VISIBLE_DEVICES": visible, "SLURM_STEP_TASKS_PER_NODE": beside}
    adopt_rank(variables)
    assert variables["LOCAL_RANK"] == local and variables["LOCAL_WORLD_SIZE"] == beside


def test_more_ranks_than_gpus_is_an_error(said, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    said({"RANK": "9", "LOCAL_RANK": "1"})
    assert gpu() == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    said({"CUDA_VISIBLE_DEVICES": "GPU-8f2a"})  # and nothing says how many ranks there are beside
    assert gpu() == 0 and os.environ["LOCAL_RANK"] == "0", "DeepSpeed looks there"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    said({"LOCAL_RANK": "2"})
    with pytest.raises(SaladError, match="rank 9 is number 2 on its machine, and sees 2 GPUs"):
        gpu()


def test_several_hosts_are_known_by_the_numbers(said):
    said({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"})
    assert not several_hosts()
    said({"LOCAL_WORLD_SIZE": "4"})
    assert several_hosts()


def test_told_to_stop_is_no_failure_where_a_launcher_knows_only_failures(said, tmp_path):
    assert exit_code(85) == 85
    said({STOPPED: str(tmp_path / "stopped")})
    assert exit_code(1) == 1 and not (tmp_path / "stopped").exists()
    assert exit_code(85) == 0 and (tmp_path / "stopped").exists()
