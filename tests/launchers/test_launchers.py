"""The launchers: the exact command they would start, what they refuse, and one real start."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.align.run import align_directory
from salad_ds.config import load_recipe
from salad_ds.data.prepare import prepare

REPOSITORY = Path(__file__).parents[2]
LAUNCHERS = REPOSITORY / "launchers"
DEMO = "salad_ds/recipes/demo.yaml"
BIN = Path(sys.executable).parent


@pytest.fixture
def start(tmp_path):
    """Run a launcher in the repository, with this environment's programs and a home of its own."""

    def run(name: str, *arguments: object, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)} | variables
        environment.setdefault("VIRTUAL_ENV", str(BIN.parent))
        return subprocess.run(
            [str(LAUNCHERS / name), *map(str, arguments)],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def hostfile(tmp_path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("# two machines\n\nnode1 slots=4\nsome@node2 slots=4\n")
    return path


def words(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode in (1, 2) and not done.stdout, done.stdout + done.stderr
    assert all(text in done.stderr for text in told), done.stderr
    assert "mend:" in done.stderr and "Traceback" not in done.stderr


def test_local_shows_the_exact_command(start):
    found = words(
        start("local.sh", DEMO, "--stage", "stage1", "--ranks", 3, "workdir=a b", "data.text_words=[3,4]", "--dry-run")
    )
    train = ["train", DEMO, "workdir=a b", "data.text_words=[3,4]", "--stage", "stage1", "--preflight"]
    wanted = ["deepspeed", "--num_gpus", "3", "--no_local_rank", "--module", "salad_ds", *train]
    assert [word for word in found if word not in ("--hostfile", "/dev/null")] == wanted


def test_the_teacher_store_is_launched_likewise(start, hostfile):
    found = words(start("local.sh", DEMO, "--verb", "precompute", "stages.stage1.ranks=1", "--dry-run"))
    work = ["--no_local_rank", "--module", "salad_ds", "precompute", DEMO, "stages.stage1.ranks=1"]
    assert found[-6:] == work and found[found.index("--num_gpus") + 1] == "2"  # the most of any stage
    found = words(start("deepspeed_hostfile.sh", DEMO, "--verb=precompute", "--hostfile", hostfile, "--dry-run"))
    assert found[-5:] == [*work[:4], DEMO]
    refused(start("local.sh", DEMO, "--verb", "precompute", "--stage", "stage1"), "precompute has no stages")
    refused(start("local.sh", DEMO, "--verb", "report"), "'report', which is not done by several ranks")
    refused(start("local.sh", DEMO, "--verb", "align", "--checkpoint", "init"), "align takes no --checkpoint")


def test_local_takes_the_ranks_from_the_recipe_and_its_overrides(start):
    assert words(start("local.sh", DEMO, "--stage=stage2", "--dry-run"))[2] == "2"
    found = words(
        start(
            "local.sh",
            "--dry-run",
            DEMO,
            "stages.stage1.ranks=1",
            "--stage=stage1",
            "--master_port=29501",
            "--debug",
        )
    )
    assert found[found.index("--num_gpus") + 1] == "1" and found[found.index("--master_port") + 1] == "29501"
    assert found[-4:] == ["--debug", "--stage", "stage1", "--preflight"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["no recipe"]),
        ([DEMO], ["no stage"]),
        (["nowhere.yaml", "--stage", "stage1"], ["nowhere.yaml does not exist"]),
        ([DEMO, "--stage", "stage9"], ["no stage 'stage9'", "stage1, stage2"]),
        ([DEMO, "--stage", "stage1", "stages.stage1.rank=3"], ["stages.stage1.rank'", "stages.stage1.ranks"]),
        ([DEMO, "--stage", "stage1", "--rank", "3"], ["no option --rank"]),
        ([DEMO, "--stage", "stage1", "--ranks"], ["--ranks has no value"]),
        ([DEMO, "--stage", "stage1", "--ranks", "0"], ["--ranks is '0'"]),
        ([DEMO, "--stage", "stage1", "--hostfile", "x"], ["no option --hostfile"]),
        ([DEMO, "more", "--stage", "stage1"], ["'more'", "key=value"]),
    ],
)
def test_local_refuses_in_one_line(start, arguments, told):
    done = start("local.sh", *arguments, "--dry-run")
    refused(done, *told)


def test_hostfile_shows_the_exact_command(start, hostfile):
    found = words(
        start(
            "deepspeed_hostfile.sh",
            DEMO,
            "--stage=stage1",
            "--hostfile",
            hostfile,
            "--master_addr",
            "10.0.0.1",
            "model.llm=Qwen/Qwen2.5-3B",
            "--dry-run",
        )
    )
    pdsh = ["deepspeed", "--hostfile", str(hostfile), "--launcher", "pdsh", "--force_multi"]
    train = ["train", DEMO, "model.llm=Qwen/Qwen2.5-3B", "--stage", "stage1", "--preflight"]
    assert found == [*pdsh, "--master_addr", "10.0.0.1", "--no_local_rank", "--module", "salad_ds", *train]


@pytest.mark.parametrize(
    "argument", ["a=$HOME", "a=b;reboot", 'a={"x":1}', "a=x y", "a=[1,2]", "a=~/x", "a=`id`", "a=%h", "a=*", "a='b'"]
)
def test_hostfile_refuses_what_a_remote_shell_would_change(start, hostfile, argument):
    done = start("deepspeed_hostfile.sh", DEMO, "--stage", "stage1", "--hostfile", hostfile, argument, "--dry-run")
    refused(done, argument, "shell of the other machines", "recipe")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node1:2222 slots=2\n", ["line 1", "name slots=GPUS", "ssh/config"]),
        ("node1 slots=2\nnode2\n", ["line 2"]),
        ("node1 slots=2\nnode1 slots=2\n", ["node1 twice"]),
        ("# nobody\n", ["names no machine"]),
        ("no$de slots=2\n", ["no$de"]),
    ],
)
def test_bad_hostfiles_are_named(start, tmp_path, text, told):
    path = tmp_path / "hosts"
    path.write_text(text)
    refused(start("deepspeed_hostfile.sh", DEMO, "--stage", "stage1", "--hostfile", path, "--dry-run"), *told)


def test_what_deepspeed_would_export_is_looked_at(start, hostfile, tmp_path):
    common = ("deepspeed_hostfile.sh", DEMO, "--stage", "stage1", "--hostfile", hostfile, "--dry-run")
    refused(start(*common, MLFLOW_TRACKING_PASSWORD="a$b"), "MLFLOW_TRACKING_PASSWORD")
    (tmp_path / ".deepspeed_env").write_text("HF_HOME=/shared/hf\n\n# a comment\n")
    refused(start(*common), ".deepspeed_env, line 2")
    (tmp_path / ".deepspeed_env").write_text("HF_HOME=/shared/hf\n")
    assert words(start(*common))


def test_hostfile_without_pdsh_says_so(start, hostfile):
    if shutil.which("pdsh"):
        pytest.skip("pdsh is installed")
    refused(start("deepspeed_hostfile.sh", DEMO, "--stage", "stage1", "--hostfile", hostfile), "pdsh is not installed")


EVERY = {
    "local.sh": [],
    "deepspeed_hostfile.sh": ["--hostfile", "HOSTFILE"],
    "torchrun.sh": ["--nodes", 2, "--master_addr", "node1", "--node_rank", 1],
    "mpi.sh": ["--ranks", 2],
    "slurm.sbatch": [],
    "kubernetes.sh": ["--image", "i:1", "--claim", "c"],
}
"""Launcher: what it needs besides."""


@pytest.mark.parametrize("name", EVERY)
def test_every_launcher_takes_the_same_arguments(start, hostfile, name):
    """And its help is its head."""
    own = [hostfile if word == "HOSTFILE" else word for word in EVERY[name]]

    def shown(*words: object) -> subprocess.CompletedProcess[str]:
        done = start(name, DEMO, *own, *words, "--dry-run", HF_HOME="/shared/hf")
        assert done.returncode == 0, done.stderr
        return done

    training = shown("--stage", "stage1", "--interface", "eth7", "stages.stage1.steps=3")
    told = training.stdout + training.stderr
    if name != "kubernetes.sh":  # there torchrun.sh adds it, in the pod
        assert "train " in told and "--preflight" in told
        assert "eth7" in told and ("GLOO_SOCKET_IFNAME" in told or name == "kubernetes.sh")
        assert "--preflight" not in shown("--stage", "stage1", "--no-preflight").stdout
        assert f"doctor --cluster {DEMO} --stage stage2" in shown("--verb", "doctor", "--stage", "stage2").stdout
        assert f"salad_ds doctor --cluster {DEMO}\n" in shown("--verb", "doctor").stdout
    refused(start(name, DEMO, *own, "--stage", "stage1", "--interface", "a b", "--dry-run"), "not the name of one")
    helped = start(name, "--help")
    assert helped.returncode == 0 and f"launchers/{name} RECIPE --stage STAGE" in helped.stdout
    for word in ("--interface NAME", "--no-preflight", "--verb VERB", "VERB: doctor", "--dry-run"):
        assert word in helped.stdout, word


def test_what_mpirun_takes_along(start):
    found = words(start("mpi.sh", DEMO, "--stage", "stage1", "--ranks", 2, "--interface", "eth7", "--dry-run",
                        HF_HOME="/x", NCCL_DEBUG="INFO", UNRELATED="y"))  # fmt: skip
    taken = {found[i + 1] for i, word in enumerate(found) if word == "-x"}
    assert {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG", "HF_HOME", "MASTER_ADDR", "PATH"} <= taken
    assert "UNRELATED" not in taken


def test_torchrun_shows_the_exact_command(start):
    found = words(start("torchrun.sh", DEMO, "--stage", "stage1", "--nodes", 4, "--ranks", 8, "--master_addr", "node1",
                        "--node_rank", 2, "--restarts", 3, "--dry-run"))  # fmt: skip
    assert found[1:] == ["-m", "torch.distributed.run", "--nnodes", "4", "--nproc-per-node", "8",
                         "--rdzv-backend", "c10d", "--rdzv-endpoint", "node1:29500",
                         "--rdzv-id", "salad-ds-train-stage1", "--max-restarts", "3", "--rdzv-conf", "is_host=0",
                         "--module", "salad_ds", "train", DEMO, "--stage", "stage1", "--preflight"]  # fmt: skip
    wrong = ["--nodes", 2, "--master_addr", "a", "--node_rank", 2]
    refused(start("torchrun.sh", DEMO, "--stage", "stage1", *wrong, "--dry-run"), "--node_rank is 2, of 2 machines")


AGAIN = """
source launchers/common.sh
DRY_RUN="" RESTARTS=2
COMMAND=(sh -c 'echo run; exit {code}')
sleep() {{ :; }}
launch_again
"""


@pytest.mark.parametrize(("code", "runs"), [(0, 1), (85, 1), (1, 3)])
def test_ranks_that_were_told_to_stop_are_not_started_again(code, runs):
    """By whomever: a job whose ranks end with 85 has written its checkpoint, and is for a scheduler to queue."""
    done = subprocess.run(["bash", "-c", AGAIN.format(code=code)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == code and done.stdout.split() == ["run"] * runs, done.stderr


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = sorted(map(str, (*LAUNCHERS.glob("*.sh"), LAUNCHERS / "slurm.sbatch")))
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.assets
def test_local_trains(start, tmp_path, tiny_llm_dir):
    """The tiny recipe, two steps on one rank; its teacher stands beside the student."""
    recipe = "salad_ds/recipes/tiny.yaml"
    overrides = [f"workdir={tmp_path / 'work'}", f"model.llm={tiny_llm_dir}", "stages.stage1.steps=2"]
    overrides += ["teacher.mode=live"]
    loaded = load_recipe(REPOSITORY / recipe, overrides)
    prepare(loaded)
    for out in ("speech/natural", "speech/held-out"):
        align_directory(loaded.path(out), loaded.align, quiet=True)
    home = os.environ.get("SALAD_DS_HOME", str(Path("~/.cache/salad_ds").expanduser()))
    done = start("local.sh", recipe, "--stage", "stage1", "--ranks", 1, *overrides, timeout=900, SALAD_DS_HOME=home)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "work/stage1/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(0 < row["loss"] < 20 for row in rows)
    assert (tmp_path / "work/stage1/model/model.safetensors").is_file()
