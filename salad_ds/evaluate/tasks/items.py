"""What a benchmark is made of: items, the prompt in which they are asked, and worked examples.

An item is *asked* in words that are read in the text condition and heard in the speech condition; what stands around
them and the options are text in both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from salad_ds.data.samples import make_key
from salad_ds.files import digest_of


class Unusable(ValueError):
    """A record that is no item. The text is the reason under which it is counted; ``detail`` tells more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Item:
    """``asked``: the words that are read or heard. ``options``: continuations, each with its leading space. ``answer``:
    index of the right one. ``audio``: where its published recording is, in the words of the benchmark's own reader."""

    id: str
    asked: str
    options: tuple[str, ...]
    answer: int
    domain: str = ""
    audio: str = ""


@dataclass(frozen=True)
class Template:
    """A prompt as data (templates.yaml). ``version`` is raised whenever its text changes.

    ``before`` ends without a space: the one in front of a word belongs to that word's first token, and in training
    speech takes the place of whole words with their tokens. ``between``: what follows a worked example's answer.
    """

    name: str
    version: int
    before: str
    after: str
    between: str
    description: str = ""
    source: str = ""

    def read(self, asked: str) -> str:
        """The prompt, its question read."""
        return (f"{self.before} {asked}" if self.before else asked) + self.after

    def heard(self, mark: str) -> str:
        """The prompt, ``mark`` in the place of its question. Around it stand the same tokens as in ``read``."""
        return self.before + mark + self.after

    @property
    def shown(self) -> str:
        """For reports: ``Definition: {asked}\\nWord:``."""
        return self.read("{asked}")


@dataclass(frozen=True)
class Task:
    """A benchmark, ready to be asked.

    ``version``: of how its records become items. ``examples``: worked, for few-shot, never among ``items``.
    ``left_out``: records that are no items, ``{reason: {"count", "examples"}}``. ``source``: where the records lie.
    ``speech``: where their published recordings lie; None where there are none to be used.
    """

    name: str
    version: int
    template: Template
    items: list[Item]
    examples: list[Item]
    left_out: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    speech: Path | None = None

    def prompt(self, item: Item) -> str:
        return self.template.read(item.asked)

    def key(self, item: Item) -> str:
        """The item's key among the shards of its speech."""
        return make_key(f"{self.name}-{item.id}")

    def made_from(self) -> dict[str, Any]:
        """What every result with this task depends on, the template word for word."""
        return {
            "task": self.name,
            "version": self.version,
            "template": asdict(self.template),
            "items": digest_of([asdict(item) for item in self.items]),
            "examples": digest_of([asdict(item) for item in self.examples]),
            "speech": "published" if self.speech else "synthetic",
        }


def usable(item: Item) -> Item:
    """``item``. Raises Unusable where nothing is asked, or there is nothing to choose from, or no right choice."""
    if not item.asked.strip():
        raise Unusable("no question")
    if len(item.options) < 2:
        raise Unusable("fewer than two options", f"{len(item.options)}")
    if not all(option.strip() for option in item.options):
        raise Unusable("an empty option")
    if not 0 <= item.answer < len(item.options):
        raise Unusable("the answer is none of the options", str(item.answer))
    return item


def text_of(record: dict[str, Any], name: str) -> str:
    """A text of a record, without blanks around it. Raises Unusable where there is none."""
    value = record.get(name)
    if not isinstance(value, str):
        raise Unusable(f"no {name}")
    return value.strip()


def continuation(text: object) -> str:
    """An option as what follows the prompt: one space, then its text."""
    if not isinstance(text, str):
        raise Unusable("an option is no text")
    return f" {text.strip()}"


def number_of(value: object, name: str) -> int:
    """A label that files have as 1, "1" or 1.0. Raises Unusable for any other, an empty one (of a hidden test set)
    included."""
    try:
        number = float(str(value).strip())
    except ValueError:
        raise Unusable(f"{name} is no number", repr(value)[:40]) from None
    if not number.is_integer():
        raise Unusable(f"{name} is no number", repr(value)[:40])
    return int(number)
