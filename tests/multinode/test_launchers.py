"""Every launcher, really launched: ZeRO-3 over two hosts, with the losses of one machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.multinode.conftest import LAUNCHERS, losses
from tests.train.launch import REPOSITORY

pytestmark = [pytest.mark.multinode, pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(1800)]


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")


def passed(text: str) -> None:
    """The preflight of both hosts ran, and found them alike."""
    assert "2 ranks on 2 hosts: node1 0, node2 1" in text and "preflight: nothing to mend" in text, text[-4000:]
    assert "all-reduce      between hosts, gloo, 2 ranks: 64 KiB" in text
    assert "clocks          against node1: node2" in text


def test_torchrun_told_to_stop_ends_with_85_and_goes_on(lab, recipe, work, alone, tmp_path):
    """Run on every host; the ranks find each other. A TERM to one host's script stops all of them with a checkpoint,
    without a restart; the same command goes on."""
    words = [LAUNCHERS / "torchrun.sh", recipe, "--stage", "stage1", "--nodes", 2, "--ranks", 1, "--restarts", 3,
             "--interface", "eth0", f"workdir={work}", "stages.stage1.checkpoint_every=1"]  # fmt: skip
    place = ["--master_addr", "node1", "--node_rank"]

    def begin() -> list[subprocess.Popen[bytes]]:
        return [lab.begin(name, *words, *place, number, log=tmp_path / name, cwd=REPOSITORY)
                for number, name in enumerate(lab.names)]  # fmt: skip

    def stepped() -> bool:
        return (work / "stage1/log.jsonl").is_file() and bool(losses(work))

    def text() -> str:
        return "".join((tmp_path / name).read_text()[-6000:] for name in lab.names)

    jobs = begin()
    lab.wait_for(stepped, "no step is taken", 600)
    lab.run("node2", "pkill", "-TERM", "-o", "-f", "launchers/torchrun.sh")  # of that host's processes
    assert [job.wait(timeout=600) for job in jobs] == [85, 85], text()
    assert text().count("was told to stop, after step") == 2, "torchrun has started the ranks again"
    before = len(losses(work))
    assert 1 <= before < len(alone)
    assert [job.wait(timeout=600) for job in begin()] == [0, 0], text()
    assert f"continuing after step {before}" in text()
    assert losses(work) == pytest.approx(alone, rel=1e-5)
    passed((tmp_path / "node1").read_text())
    assert "node2 eth0 10.77.0.12 (gloo eth0, NCCL =eth0)" in (tmp_path / "node1").read_text()


def test_pdsh(lab, recipe, work, alone, hostfile, monkeypatch, tmp_path):
    """The variables of this shell reach the ranks of the other host, those of the user's file too."""
    needs("pdsh")
    extra = tmp_path / "deepspeed_env"
    extra.write_text(f"OMP_WAIT_POLICY=PASSIVE\nHF_HOME={tmp_path}\n")
    monkeypatch.setitem(lab.variables, "DS_ENV_FILE", str(extra))
    monkeypatch.setitem(lab.variables, "HF_ENDPOINT", "https://example.org")
    done = lab.run("node1", LAUNCHERS / "deepspeed_hostfile.sh", recipe, "--stage", "stage1", "--hostfile", hostfile,
                   f"workdir={work}", cwd=REPOSITORY, timeout=600)  # fmt: skip
    assert losses(work) == pytest.approx(alone, rel=1e-5)
    passed(done.stdout + done.stderr)
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "  environment " in line)
    assert "ok  environment" in line, line  # the same on both hosts: else they are named


def test_without_ssh_the_hosts_are_looked_at(lab, recipe, work, hostfile, tmp_path):
    """The verb ``doctor`` by itself: what distinguishes this launcher is how it starts the ranks."""
    jobs = [
        lab.begin(name, LAUNCHERS / "deepspeed_hostfile.sh", recipe, "--verb", "doctor", "--hostfile", hostfile,
                  "--no_ssh", "--node_rank", number, "--master_addr", "node1", f"workdir={work}",
                  log=tmp_path / name, cwd=REPOSITORY)
        for number, name in enumerate(lab.names)
    ]  # fmt: skip
    assert [job.wait(timeout=600) for job in jobs] == [0, 0], (tmp_path / "node1").read_text()[-3000:]
    passed((tmp_path / "node1").read_text())
    assert "all-reduce" not in (tmp_path / "node2").read_text(), "one table"


def test_mpi(lab, recipe, work, alone, hostfile):
    needs("mpirun")
    done = lab.run("node1", LAUNCHERS / "mpi.sh", recipe, "--stage", "stage1", "--ranks", 2, "--hostfile", hostfile,
                   f"workdir={work}", cwd=REPOSITORY, timeout=600)  # fmt: skip
    assert losses(work) == pytest.approx(alone, rel=1e-5)
    passed(done.stdout + done.stderr)


def test_slurm_preempts_queues_again_and_finishes(lab, recipe, work, alone, tmp_path):
    """The job is told to stop (USR1, as before its time limit), saves, is queued again, and ends with the losses of a
    run that was never stopped. One that is told before its first step, by a time limit that is shorter than the time
    between that signal and the end, is not: it would be told again, and for ever."""
    for program in ("sbatch", "slurmd", "slurmctld", "munged"):
        needs(program)
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def submit(name: str, *more: object) -> tuple[str, Path]:
        out = tmp_path / name
        words = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={out}"]
        train = [recipe, "--stage", "stage1", f"workdir={work}", "stages.stage1.checkpoint_every=100"]
        options = [word for word in more if str(word).startswith("--")]
        done = lab.run("node1", "sbatch", "--parsable", *words, *options, LAUNCHERS / "slurm.sbatch", *train,
                       *(word for word in more if word not in options), cwd=REPOSITORY)  # fmt: skip
        return done.stdout.strip(), out

    def state(job: str) -> str:
        shown = lab.run("node1", "scontrol", "show", "job", job, check=False).stdout
        return next((word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")), "")

    def text(out: Path) -> str:
        return out.read_text() if out.is_file() else ""

    def stepped() -> bool:
        return (work / "stage1/log.jsonl").is_file() and len(losses(work)) >= 2

    with lab.slurm():
        job, out = submit("job.out")
        lab.wait_for(stepped, f"the job does not train: {state(job)}: {text(out)[-3000:]}", 600)
        lab.run("node1", "scancel", "--signal=USR1", job)
        lab.wait_for(lambda: state(job) in ends, "the job does not end", 600)
        assert state(job) == "COMPLETED", text(out)[-4000:]
        assert "queueing the job again" in text(out) and "continuing after step" in text(out) and "start 2" in text(out)
        passed(text(out))
        assert losses(work) == pytest.approx(alone, rel=1e-5)

        job, out = submit("short.out", "--time=3", "stages.stage1.steps=50")
        lab.wait_for(lambda: "start 1" in text(out), f"the job does not begin: {state(job)}: {text(out)}", 60)
        lab.wait_for(lambda: "StepId=" in lab.run("node1", "scontrol", "show", "step", f"{job}.0", check=False).stdout,
                     "the ranks are not started", 60)
        lab.run("node1", "scancel", "--signal=USR1", job)
        lab.wait_for(lambda: state(job) in ends, f"the job does not end: {text(out)}", 120)
    assert "before the first step, and would be so again: not queued" in text(out), text(out)
    assert "start 2" not in text(out) and "its ranks are told 300 s before that is over" in text(out)
