"""The pages of the repository, and what they tell a reader to type."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*/README.md")]
)


@dataclass(frozen=True)
class Command:
    """One command of a page. ``words``: as a shell splits it, without comment, redirection and ``.venv/bin/``."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{' '.join(self.words)}"


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(line, text) of the fenced blocks in these languages."""
    found, opened, lines = [], None, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if opened is None and line.startswith("```"):
            opened = (number + 1, line[3:].strip())
        elif opened is not None and line.startswith("```"):
            if opened[1] in languages:
                found.append((opened[0], "\n".join(lines[opened[0] - 1 : number - 1])))
            opened = None
    assert opened is None, f"{page}: a block is not closed"
    return found


def commands(page: Path) -> list[Command]:
    """What stands in the shell blocks of a page."""
    found = []
    for begin, text in blocks(page, "bash", "sh", "shell", "console"):
        number = begin
        for line in re.sub(r"\\\n\s*", lambda cut: "\0" * cut[0].count("\n"), text).split("\n"):
            words = shlex.split(line.replace("\0", " "), comments=True)
            if ">" in words:
                words = words[: words.index(">")]
            if words:
                words[0] = words[0].removeprefix(".venv/bin/")
                found.append(Command(str(page.relative_to(REPOSITORY)), number, tuple(words)))
            number += 1 + line.count("\0")
    return found


def mentions(page: Path) -> list[tuple[str, ...]]:
    """Commands within sentences: what stands between backticks and begins like one of ours."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    ours = ("salad-ds ", "make ", "python -m salad_ds", "python -m tests", "python data_prep/", "launchers/")
    return [tuple(span.split()) for span in spans if span.startswith(ours)]


def recipes(page: Path) -> dict[str, str]:
    """Recipes that a page spells out: YAML blocks whose first line is ``# NAME.yaml``, by name."""
    return {
        text.split("\n")[0].removeprefix("# ").strip(): text
        for _, text in blocks(page, "yaml")
        if re.match(r"# [\w-]+\.yaml\s*$", text.split("\n")[0])
    }
