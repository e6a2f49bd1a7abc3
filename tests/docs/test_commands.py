"""Every command of every page does what it says, as far as that is cheap: a verb's arguments parse and its recipe
resolves (``--dry-run``), a corpus's arguments are those of its function, a launcher and ``make`` show what they would
start. What the others do is run by the tests that RUN_BY names.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salad_ds.cli import main, parse
from salad_ds.data import preparation
from salad_ds.verbs import VERBS
from tests.docs.pages import PAGES, REPOSITORY, Command, commands, mentions, recipes

COMMANDS = [command for page in PAGES for command in commands(page)]
RUN_BY = {
    "python -m salad_ds.reference": "tests/test_reference.py::test_it_is_written_whole_where_it_belongs",
    "python -m salad_ds.evaluate.harness": "tests/evaluate/test_harness.py",
    "python -m salad_ds.assets": "tests/assets/test_cache.py",
    "python -m salad_ds.evidence": "tests/evidence/test_main.py",
}
"""Beginning of a command: the test that runs it."""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The repository as a reader has it, without its work directories; commands may leave things here."""
    for path in REPOSITORY.iterdir():
        if path.name not in ("runs", ".git"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_does_what_its_page_says(command: Command, place: Path, capsys, monkeypatch):
    program, arguments = command.words[0], list(command.words[1:])
    for name, text in recipes(REPOSITORY / command.page).items():
        (place / name).write_text(text)
    for word in arguments:  # a recipe that an earlier page spells out, or that stands for any
        if word.endswith(".yaml") and not (place / word).exists():
            (place / word).write_text(known_recipe(word))
    if run_by(command) is not None:
        return
    if program == "salad-ds":
        verb_resolves(arguments, capsys)
    elif program in ("python", "python3") and arguments[0].startswith("data_prep/"):
        arguments_of_a_corpus(Path(arguments[0]), arguments[1:], monkeypatch)
    elif program in ("python", "python3") and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), arguments[1]
        assert arguments[1].startswith("tests.bench."), f"{command}: add it to RUN_BY, with the test that runs it"
    elif program.startswith("launchers/"):
        launcher_shows(program, arguments)
    elif program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    else:
        pytest.fail(f"{command.page}:{command.line}: nothing here knows how to try {' '.join(command.words)!r}")


def run_by(command: Command) -> str | None:
    text = " ".join(command.words)
    return next((test for start, test in RUN_BY.items() if text.startswith(start)), None)


def known_recipe(name: str) -> str:
    named = {key: text for page in PAGES for key, text in recipes(page).items()}
    return named.get(name) or (REPOSITORY / "salad_ds/recipes/demo.yaml").read_text()


def verb_resolves(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = parse(arguments)
    if VERBS[chosen.verb].recipe:
        code = main([*arguments, *([] if chosen.dry_run else ["--dry-run"])])
        assert code == 0, capsys.readouterr().err


def arguments_of_a_corpus(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own command line, up to the call of its function."""
    module = importlib.import_module(f"data_prep.{path.stem}")
    prepare = getattr(module, f"prepare_{path.stem}")
    called = []

    @functools.wraps(prepare)
    def note(*given: object, **settings: object) -> dict[str, object]:
        called.append(inspect.signature(prepare).bind(*given, **settings))
        raise SystemExit(0)

    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit) as left:
        preparation.main(str(module.__doc__), note)
    assert left.value.code == 0 and called


def launcher_shows(program: str, arguments: list[str]) -> None:
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "VIRTUAL_ENV": str(programs.parent)}
    shown = subprocess.run([program, *arguments, *([] if "--dry-run" in arguments else ["--dry-run"])],
                           env=environment, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and "salad_ds" in shown.stdout, shown.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_sentence_mentions_exists(page):
    """Verbs, make targets, modules, scripts and their options, within backticks."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words in mentions(page):
        text = " ".join(words)
        if words[0] == "salad-ds":
            assert words[1] in VERBS or words[1] in ("VERB", "--help", "--version"), f"{page}: {text}"
        elif words[0] == "make":
            assert {word for word in words[1:] if re.fullmatch("[a-z-]+", word)} <= targets, f"{page}: {text}"
        elif words[:2] == ("python", "-m"):
            assert importlib.util.find_spec(words[2]), f"{page}: {text}"
        elif words[0] == "python" and "KIND" not in words[1] and "mine" not in words[1]:
            assert (REPOSITORY / words[1]).is_file(), f"{page}: {text}"
        elif words[0].startswith("launchers/"):
            assert (REPOSITORY / words[0]).exists(), f"{page}: {text}"


@pytest.mark.parametrize("test", sorted(RUN_BY.values()))
def test_the_tests_that_run_the_others_are_there(test):
    path, _, name = test.partition("::")
    names = {node.name for node in ast.walk(ast.parse((REPOSITORY / path).read_text()))
             if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert not name or name in names


def test_recipes_that_pages_spell_out_load(tmp_path):
    from salad_ds.config import load_recipe

    found = {name: text for page in PAGES for name, text in recipes(page).items()}
    assert {"my-recipe.yaml", "my-student.yaml"} <= set(found)
    for name, text in found.items():
        (tmp_path / name).write_text(text)
        assert load_recipe(tmp_path / name).stages


def test_shell_programs_of_pages_are_found():
    assert shutil.which("make") and (REPOSITORY / "launchers/local.sh").stat().st_mode & 0o111
