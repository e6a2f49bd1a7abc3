"""What Tab offers, asked as a shell asks, and in real shells where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.completion import SHELLS, keys, script, values
from salad_ds.config import Recipe, known_keys
from salad_ds.verbs import VERBS

REPOSITORY = Path(__file__).parents[1]
DEMO = "salad_ds/recipes/demo.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def offered(tmp_path: Path, line: str) -> list[str]:
    """What ``salad-ds`` answers to a shell at the end of ``line``."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n",
             "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"), "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n"}
    subprocess.run([sys.executable, "-m", "salad_ds"], env=os.environ | asked, timeout=60, check=True)
    return [word.strip() for word in (tmp_path / "answer").read_text().split("\n")]


def test_verbs_and_options(tmp_path):
    assert offered(tmp_path, "salad-ds ") == list(VERBS)
    assert {"--stage", "--dry-run", "--debug"} <= set(offered(tmp_path, f"salad-ds train {DEMO} --"))


def test_recipes(tmp_path):
    found = offered(tmp_path, "salad-ds train salad_ds/recipes/")
    assert DEMO in found and all(name.endswith((".yaml", "/")) for name in found)


def test_keys_of_nested_stages_also_behind_an_option(tmp_path):
    assert offered(tmp_path, f"salad-ds train {DEMO} --stage stage2 data.context=8 stages.stage2.lr_") == [
        "stages.stage2.lr_adapter=", "stages.stage2.lr_llm="]


def test_values(tmp_path):
    assert offered(tmp_path, f"salad-ds train {DEMO} teacher.keep=") == ["teacher.keep=topk", "teacher.keep=sampled"]
    assert offered(tmp_path, f"salad-ds measure {DEMO} --checkpoint stage") == ["stage1", "stage2"]


def test_every_key_is_offered_and_the_values_of_choices_and_switches():
    listed = ("corpora.", "evaluate.tasks.", "measure.sets.", "stages.sources.")  # items of lists: not by a dotted key
    sections = {key.rpartition(".")[0] for key in known_keys() if not key.startswith(listed)} | {"stages"}
    known = [key for key in known_keys() if not key.startswith(listed) and key not in sections]
    assert [key.replace("stages.warm.", "stages.") for key in keys(Recipe, ["warm"])] == known
    assert values("select.policy") == ["active", "uniform"] and values("tracking.enabled") == ["true", "false"]
    assert values("model.gradient_checkpointing") == ["true", "false"] and values("model.seed") == values("x.y") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell, tmp_path):
    """The shell itself completes ``stages.stage2.st`` behind an option."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "salad-ds").write_text(f'#!/bin/sh\nexec {sys.executable} -m salad_ds "$@"\n')
    (tmp_path / "salad-ds").chmod(0o755)
    (tmp_path / "script").write_text(script(shell))
    line = f"salad-ds train {DEMO} --stage stage2 stages.stage2.st"
    asked = {
        "bash": f"source {tmp_path}/script; COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9 "
        '_python_argcomplete salad-ds; printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": f"autoload -U compinit; compinit -u -d {tmp_path}/dump; source {tmp_path}/script; "
        'print -- "$_comps[salad-ds]=steps"',
        "fish": f"source {tmp_path}/script; complete -C '{line}'",
    }[shell]
    done = subprocess.run([shell, "-c", asked], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
                          capture_output=True, text=True, timeout=60)
    assert "steps=" in done.stdout or "=steps" in done.stdout, done.stderr
