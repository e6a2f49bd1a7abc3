"""Every launcher, really launched: ZeRO-3 over two hosts, with the losses of one machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.multinode.conftest import LAUNCHERS, losses
from tests.train.launch import REPOSITORY

pytestmark = [pytest.mark.multinode, pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(600)]


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")


def test_torchrun(lab, recipe, work, alone, tmp_path):
    """Run on every host; the ranks find each other."""
    words = [LAUNCHERS / "torchrun.sh", recipe, "--stage", "stage1", "--nodes", 2, "--ranks", 1,
             "--master_addr", "node1", f"workdir={work}"]  # fmt: skip
    jobs = [lab.begin(name, *words, log=tmp_path / f"{name}.log", cwd=REPOSITORY) for name in lab.names]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0], (tmp_path / "node1.log").read_text()[-3000:]
    assert losses(work) == pytest.approx(alone, rel=1e-5)


def test_pdsh(lab, recipe, work, alone, hostfile, monkeypatch, tmp_path):
    needs("pdsh")
    extra = tmp_path / "deepspeed_env"
    extra.write_text("".join(f"{name}={lab.variables[name]}\n" for name in ("DS_ACCELERATOR", "OMP_WAIT_POLICY")))
    monkeypatch.setitem(lab.variables, "DS_ENV_FILE", str(extra))
    lab.run("node1", LAUNCHERS / "deepspeed_hostfile.sh", recipe, "--stage", "stage1", "--hostfile", hostfile,
            f"workdir={work}", cwd=REPOSITORY, timeout=300)  # fmt: skip
    assert losses(work) == pytest.approx(alone, rel=1e-5)


def test_without_ssh(lab, recipe, work, alone, hostfile, tmp_path):
    jobs = [
        lab.begin(name, LAUNCHERS / "deepspeed_hostfile.sh", recipe, "--stage", "stage1", "--hostfile", hostfile,
                  "--no_ssh", "--node_rank", number, "--master_addr", "node1", f"workdir={work}",
                  log=tmp_path / f"{name}.log", cwd=REPOSITORY)
        for number, name in enumerate(lab.names)
    ]  # fmt: skip
    assert [job.wait(timeout=300) for job in jobs] == [0, 0], (tmp_path / "node1.log").read_text()[-3000:]
    assert losses(work) == pytest.approx(alone, rel=1e-5)


def test_mpi(lab, recipe, work, alone, hostfile):
    needs("mpirun")
    lab.run("node1", LAUNCHERS / "mpi.sh", recipe, "--stage", "stage1", "--ranks", 2, "--hostfile", hostfile,
            f"workdir={work}", cwd=REPOSITORY, timeout=300)  # fmt: skip
    assert losses(work) == pytest.approx(alone, rel=1e-5)


def test_slurm_preempts_queues_again_and_finishes(lab, recipe, work, alone, tmp_path):
    """The job is told to stop (USR1, as before its time limit), saves, is queued again, and ends with the losses of a
    run that was never stopped."""
    for program in ("sbatch", "slurmd", "slurmctld", "munged"):
        needs(program)
    output = tmp_path / "job.out"
    with lab.slurm():

        def state() -> str:
            shown = lab.run("node1", "scontrol", "show", "job", job, check=False).stdout
            return next((word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")), "")

        said = lab.run("node1", "sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1",
                       f"--output={output}", LAUNCHERS / "slurm.sbatch", recipe, "--stage", "stage1", f"workdir={work}",
                       "stages.stage1.checkpoint_every=100", cwd=REPOSITORY).stdout  # fmt: skip
        job = said.strip()

        def text() -> str:
            return Path(output).read_text() if output.is_file() else ""

        def stepped() -> bool:
            return (work / "stage1/log.jsonl").is_file() and len(losses(work)) >= 2

        lab.wait_for(stepped, f"the job does not train: {state()}: {text()[-3000:]}", 200)
        lab.run("node1", "scancel", "--signal=USR1", job)
        lab.wait_for(lambda: state() in ("COMPLETED", "FAILED", "CANCELLED"), "the job does not end", 300)
        assert state() == "COMPLETED", text()[-4000:]
    assert "queueing the job again" in text() and "continuing after step" in text() and "start 2" in text()
    assert losses(work) == pytest.approx(alone, rel=1e-5)
