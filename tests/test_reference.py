"""docs/reference.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from salad_ds import reference
from salad_ds.config import CHOICES, known_keys
from salad_ds.environment import VARIABLES
from salad_ds.errors import EXIT_CODES
from salad_ds.verbs import VERBS

LISTS = {"corpora.": "corpora[].", "stages.sources.": "stages.NAME.sources[].", "stages.": "stages.NAME.",
         "measure.sets.": "measure.sets[].", "evaluate.tasks.": "evaluate.tasks[]."}  # fmt: skip


def written(key: str) -> str:
    """A key as the page has it."""
    start = next((start for start in LISTS if key.startswith(start)), "")
    return LISTS[start] + key.removeprefix(start) if start else key


def test_the_page_is_that_of_this_code():
    assert reference.PAGE.read_text() == reference.page(), "run python -m salad_ds.reference --write"


def test_every_key_verb_choice_and_exit_code_is_there():
    page = reference.page()
    sections = {key.rpartition(".")[0] for key in known_keys()}
    for key in known_keys():
        assert f"| `{written(key)}` |" in page or (key in sections and f"### `{written(key)}" in page), key
    for name, verb in VERBS.items():
        assert f"### `salad-ds {name}" in page and all(example in page for example in verb.examples)
    for section, name, values in CHOICES:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{section}.{name}` |")]
        assert all(f"`{value}`" in row for value in values), row
    assert all(f"\n| {code} | " in page for code in EXIT_CODES)


def test_every_variable_that_the_code_reads_is_there():
    package = Path(reference.__file__).parent
    named = {name for path in package.rglob("*.py") for name in re.findall(r"SALAD_DS_[A-Z]+", path.read_text())}
    assert named - {"SALAD_DS_PARENT", "SALAD_DS_STOPPED"} == set(VARIABLES), "those two are between our own processes"
    assert all(f"| `{name}` | " in reference.page() for name in VARIABLES)


def test_defaults_are_those_of_the_code():
    page = reference.page()
    assert '| `model.encoder.kind` | text | `"mimi"` |' in page
    assert "| `stages.NAME.betas` | list of numbers | `[0.9, 0.95]` |" in page
    assert "| `corpora[].samples_per_shard` | integer or null *≥ 1* | `null` |" in page
    assert "| `tracking.uri` | text | empty |" in page and "| `model.llm` | text | **required** |" in page


def test_it_is_written_whole_where_it_belongs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reference, "PAGE", tmp_path / "reference.md")
    assert reference.main(["--write"]) == 0
    assert (tmp_path / "reference.md").read_text() == reference.page() and capsys.readouterr().out == ""
    assert reference.main([]) == 0 and capsys.readouterr().out == reference.page()
