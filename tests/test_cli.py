"""The command line as its user meets it: help that fits, one line and a mend for an error, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.cli import BESIDE, VERBS, main, parse

DEMO = "salad_ds/recipes/demo.yaml"
ALL = [*dict.fromkeys([*VERBS, *BESIDE])]
COMMAND = [sys.executable, "-m", "salad_ds"]
REPOSITORY = Path(__file__).parents[1]


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


def test_help_fits_a_screen_and_lists_every_verb_once(capsys):
    code, out, _ = told(capsys, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 80
    for verb in ALL:
        assert sum(line.startswith(f"  {verb} ") for line in lines) == 1, verb


@pytest.mark.parametrize("verb", ALL)
def test_help_of_a_verb_fits_and_its_example_parses(capsys, verb):
    code, out, _ = told(capsys, verb, "--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 100
    assert f"{verb}: " in out
    if "example: salad-ds " in out:
        example = " ".join(out[out.index("example: salad-ds ") :].split()[2:]).replace("' The word is'", "x")
        assert parse(example.split()).verb == verb


def test_version(capsys):
    code, out, _ = told(capsys, "--version")
    assert code == 0 and out.startswith("salad-ds ")


def test_wrong_usage_is_2(capsys):
    train = ["train", DEMO]
    for arguments in ([], ["trian", DEMO], ["train"], [*train, "--fast"], ["generate"], ["doctor", "a=1"]):
        code, out, err = told(capsys, *arguments)
        assert code == 2 and not out and err.startswith("usage: salad-ds") and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "what", "mend"),
    [
        (("prepare", "nowhere.yaml"), "recipe nowhere.yaml does not exist", "demo.yaml"),
        (("align", DEMO, "align.engin=x"), "unknown key 'align.engin'", "did you mean 'align.engine'?"),
        (("train", DEMO, "stages.stage1.steps=many"), "stages.stage1.steps", "config.py"),
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


def test_overrides_may_stand_anywhere():
    """argparse by itself takes no more positional arguments once an option has come between."""
    chosen = parse(["train", DEMO, "a=1", "--stage", "stage2", "b=2", "c=-3"])
    assert (chosen.recipe, chosen.stage, chosen.overrides) == (DEMO, "stage2", ["a=1", "b=2", "c=-3"])


def test_debug_shows_the_traceback(capsys):
    code, _, err = told(capsys, "prepare", "nowhere.yaml", "--debug")
    assert code == 1 and "Traceback (most recent call last)" in err and "load_recipe" in err
    assert err.splitlines()[-1].startswith("  mend: ")


def test_another_rank_says_which_it_is(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert told(capsys, "prepare", "nowhere.yaml")[2].startswith("salad-ds prepare (rank 3): ")


def test_done_is_0(capsys, tmp_path):
    """A verb that has nothing to do, started as a user does."""
    recipe = tmp_path / "empty.yaml"
    recipe.write_text(f"name: empty\nworkdir: {tmp_path / 'work'}\nmodel: {{llm: none}}\n")
    done = subprocess.run([*COMMAND, "prepare", str(recipe)], capture_output=True, text=True, timeout=60)
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


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m salad_ds doctor | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "141" and "python" in done.stdout and not done.stderr
