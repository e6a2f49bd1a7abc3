"""The command line as its user meets it: help that fits, one line and a mend for an error, exit codes."""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.cli import main, parse
from salad_ds.errors import EXIT_CODES, FAULT
from salad_ds.verbs import VERBS

DEMO = "salad_ds/recipes/demo.yaml"
COMMAND = [sys.executable, "-m", "salad_ds"]
REPOSITORY = Path(__file__).parents[1]
EXAMPLES = [(verb.name, example) for verb in VERBS.values() for example in verb.examples]
HEAVY = ("torch", "transformers", "deepspeed", "mlflow", "numpy", "pyarrow", "matplotlib")


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "100")


def told(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call."""
    try:
        code = main(list(arguments))
    except SystemExit as left:
        code = int(left.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# ---- help


def test_help_fits_a_screen_and_lists_every_verb_once(capsys):
    code, out, _ = told(capsys, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 80
    for verb in VERBS:
        assert sum(line.startswith(f"  {verb} ") for line in lines) == 1, verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_and_has_examples(capsys, verb):
    code, out, _ = told(capsys, verb, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 32
    assert all(len(line) <= (120 if line.startswith("  salad-ds ") else 100) for line in lines)
    assert f"{verb}: " in out and 2 <= len(VERBS[verb].examples) <= 3
    for example in VERBS[verb].examples:
        assert f"  salad-ds {verb} {example}".rstrip() in lines


@pytest.mark.parametrize(("verb", "example"), EXAMPLES)
def test_examples_parse_and_their_recipes_resolve(capsys, verb, example):
    words = [verb, *shlex.split(example.partition(" > ")[0])]
    assert parse(words).verb == verb
    if VERBS[verb].recipe:
        code, out, err = told(capsys, *words, *(["--dry-run"] if "--dry-run" not in words else []))
        assert code == 0 and out and not err


def test_version(capsys):
    code, out, _ = told(capsys, "--version")
    assert code == 0 and out.startswith("salad-ds ")


def test_nothing_that_takes_time_is_imported_for_help_or_completion():
    modules = "salad_ds.cli, salad_ds.completion, salad_ds.dry_run"
    code = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "[]"


# ---- usage


@pytest.mark.parametrize(
    ("arguments", "what", "mend"),
    [
        ((), "salad-ds: ", "salad-ds --help"),
        (("trian", DEMO), "there is no verb 'trian'", "did you mean 'train'?"),
        (("train",), "salad-ds train: the following arguments are required: recipe", "salad-ds train --help"),
        (("train", DEMO, "--fast"), "salad-ds train: unrecognized arguments: --fast", "salad-ds train --help"),
        (("train", DEMO, "--satge", "stage1"), "unrecognized arguments: --satge", "did you mean --stage?"),
        (("generate",), "--checkpoint", "salad-ds generate --help"),
        (("completion", "zsh", "a=1"), "completion: unrecognized arguments: a=1", "salad-ds completion --help"),
    ],
)
def test_wrong_usage_is_one_line_and_its_mend_and_2(capsys, arguments, what, mend):
    code, out, err = told(capsys, *arguments)
    first, second = err.splitlines()
    assert code == 2 and not out and what in first and second.startswith("  mend: ") and mend in second


def test_overrides_may_stand_anywhere():
    """argparse by itself takes no more positional arguments once an option has come between."""
    chosen = parse(["train", DEMO, "a=1", "--stage", "stage2", "b=2", "c=-3"])
    assert (chosen.recipe, chosen.stage, chosen.overrides) == (DEMO, "stage2", ["a=1", "b=2", "c=-3"])
    assert parse(["train", DEMO, "--stage", "stage2", "b=2"]).overrides == ["b=2"]
    assert parse(["train", DEMO]).overrides == []


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "what", "mend"),
    [
        (("prepare", "nowhere.yaml"), "recipe nowhere.yaml does not exist", "demo.yaml"),
        (("align", DEMO, "align.engin=x"), "unknown key 'align.engin'", "did you mean 'align.engine'?"),
        (("train", DEMO, "stages.stage1.steps=many"), "stages.stage1.steps", "reference.md"),
        (("prepare", DEMO, "corpora=[{kind: asterix, source: s, out: x}]"), "'asterix'", "did you mean 'asterisk'?"),
        (("generate", "--checkpoint", "nowhere", "--text", "x"), "nowhere", ""),
    ],
)
def test_an_error_is_one_line_and_its_mend_and_1(capsys, tmp_path, arguments, what, mend):
    if arguments[0] != "generate":
        arguments = (*arguments, f"workdir={tmp_path}")
    code, out, err = told(capsys, *arguments)
    first, second = err.splitlines()
    assert code == 1 and not out
    assert first.startswith(f"salad-ds {arguments[0]}: ") and what in first
    assert second.startswith("  mend: ") and mend in second


def test_debug_shows_the_traceback(capsys):
    code, _, err = told(capsys, "prepare", "nowhere.yaml", "--debug")
    assert code == 1 and "Traceback (most recent call last)" in err and "load_recipe" in err
    assert err.splitlines()[-1].startswith("  mend: ")


def test_another_rank_says_which_it_is(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert told(capsys, "prepare", "nowhere.yaml")[2].startswith("salad-ds prepare (rank 3): ")


@pytest.fixture
def broken(monkeypatch):
    """A verb with a defect: ``report`` raises what it is given."""

    def breaks(error: Exception) -> None:
        def run(_):  # noqa: ANN001, ANN202
            raise error

        monkeypatch.setitem(VERBS, "report", dataclasses.replace(VERBS["report"], run=run))

    return breaks


def test_a_defect_is_one_line_and_leaves_its_traceback_in_the_work_directory(capsys, broken, tmp_path):
    broken(ZeroDivisionError("a\nb"))
    code, out, err = told(capsys, "report", DEMO, f"workdir={tmp_path}")
    first, second = err.splitlines()
    (kept,) = tmp_path.iterdir()
    assert code == FAULT and not out and first == "salad-ds report: ZeroDivisionError: a b"
    assert second.startswith("  mend: run again with --debug, or read ") and str(kept) in second
    assert "Traceback (most recent call last)" in kept.read_text() and "ZeroDivisionError: a\nb" in kept.read_text()


def test_a_defect_without_a_work_directory_leaves_it_in_the_temporary_one(capsys, broken, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken(ZeroDivisionError("c"))
    _, _, err = told(capsys, "report", DEMO, f"workdir={tmp_path}/not/made")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err and not (tmp_path / "not").exists()


def test_a_defect_shows_its_traceback_with_debug(capsys, broken, tmp_path):
    broken(ZeroDivisionError("d"))
    code, _, err = told(capsys, "report", DEMO, f"workdir={tmp_path}", "--debug")
    assert code == FAULT and "Traceback (most recent call last)" in err


@pytest.mark.parametrize(
    ("error", "what", "mend"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/x"), "No space left on device: /full/x", "make room"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), "Permission denied: /x", "workdir="),
        (MemoryError("4 GB"), "MemoryError: 4 GB", "micro_batch"),
    ],
)
def test_what_the_machine_lacks_has_a_mend(capsys, broken, tmp_path, error, what, mend):
    broken(error)
    code, _, err = told(capsys, "report", DEMO, f"workdir={tmp_path}")
    first, second = err.splitlines()
    assert code == 1 and first == f"salad-ds report: {what}" and mend in second and not list(tmp_path.iterdir())


# ---- how it ends


def test_exit_codes_are_those_of_the_errors():
    from salad_ds.errors import SaladError, Stopped

    assert {0, SaladError.code, 2, FAULT, Stopped.code, 130, 141} == set(EXIT_CODES)


def test_done_is_0(capsys, tmp_path):
    """A verb that has nothing to do, started as a user does."""
    recipe = tmp_path / "empty.yaml"
    recipe.write_text(f"name: empty\nworkdir: {tmp_path / 'work'}\nmodel: {{llm: none}}\n")
    done = subprocess.run([*COMMAND, "prepare", str(recipe)], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_interrupted_says_so_and_is_130(tmp_path):
    """Ctrl-C while a verb reads: the store's settings are a pipe here, so that the moment is known."""
    work = tmp_path / "work"
    (work / "teacher").mkdir(parents=True)
    pipe = work / "teacher/store.json"
    os.mkfifo(pipe)
    recipe = tmp_path / "empty.yaml"
    recipe.write_text(f"name: empty\nworkdir: {work}\nmodel: {{llm: none}}\n")
    job = subprocess.Popen([*COMMAND, "lint", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with open(pipe, "w"):  # returns when lint has opened it
            job.send_signal(signal.SIGINT)
            out, err = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 130
    assert "salad-ds lint: interrupted; the same command goes on where it stopped" in err and "Traceback" not in err


def test_a_second_interrupt_does_not_wait():
    """For a thread that Python would join at its end."""
    code = f"""
import dataclasses, signal, sys, threading, time
from salad_ds.cli import main
from salad_ds.verbs import VERBS
def run(_):
    threading.Thread(target=time.sleep, args=(300,)).start()
    signal.raise_signal(signal.SIGINT)
VERBS["report"] = dataclasses.replace(VERBS["report"], run=run)
sys.exit(main(["report", {DEMO!r}]))
"""
    job = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert job.stderr is not None
        while "interrupted" not in (line := job.stderr.readline()):
            assert line
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(timeout=1)
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=30) == 130 and job.stderr.read() == ""
    finally:
        job.kill()


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m salad_ds doctor | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.splitlines()[-1] == "141" and "python" in done.stdout and not done.stderr
