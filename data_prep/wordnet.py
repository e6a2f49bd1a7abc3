"""WordNet 3.0: broad-domain English of 25-70 words a text, composed from definitions and usage examples; and the items
of the definition → word benchmark, kept apart from the texts.

Debian's ``wordnet-base``. A record of ``data.noun`` (file, byte offset, lexicographer file, words, relations | gloss):

    03640660 06 n 01 lane 1 005 @ 03899328 n 0000 ~ 02882014 n 0000 ... | a well-defined track or path; for e.g. ...

and of ``cntlist.rev`` (sense key, sense number, how often the sense was tagged in SemCor): ``lane%1:06:01:: 1 7``.

A text tells of one noun: what it is, how it is also called, an example of its use, what its hypernym is, and what kinds
of it there are. Definitions lose notes in parentheses; those with symbols, digits or quotation marks are not used.
``domain`` in the metadata is the lexicographer file (``noun.animal``, ``noun.food``, ...).

A fifth of the synsets, by a hash of the offset, is held out: their definitions are in no text. ``wordnet_items`` gives
the common ones among them as benchmark items.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from salad_ds.data.preparation import existing, fingerprint, main
from salad_ds.data.shards import Sample, ShardWriter, finished
from salad_ds.errors import DataError
from salad_ds.progress import Progress

VERSION = 1
HELD_OUT = 5  # one synset in five
SHORTEST, LONGEST = 25, 70  # words of a text
DOMAINS = ("noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition noun.communication "
           "noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
           "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
           "noun.substance noun.time").split()  # lexicographer files 03-28, as lexnames(5WN) numbers them

T = TypeVar("T")
UNCOUNTABLE = ("noun.substance", "noun.food", "noun.feeling", "noun.attribute", "noun.state", "noun.phenomenon")


@dataclass(frozen=True)
class Item:
    """A multiple-choice question to be: which word has this definition?"""

    word: str
    definition: str
    domain: str
    offset: int


@dataclass(frozen=True)
class Synset:
    offset: int
    domain: str
    words: tuple[str, ...]
    lex_ids: tuple[int, ...]
    lexfile: int
    definition: str
    examples: tuple[str, ...]
    hypernyms: tuple[int, ...]
    hyponyms: tuple[int, ...]
    instance: bool = False


def prepare_wordnet(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0, samples_per_shard: int = 1024,
                    max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the texts as text shards; returns the manifest. Does nothing where they lie there already.

    The order is that of a hash, so that the first ``limit`` texts are of all domains.
    """
    files = find_files(existing(corpus_dir, "WordNet"))
    made_from = {"corpus": "wordnet", "version": VERSION, "source": fingerprint(files["noun"].parent, files.values()),
                 "limit": limit, "samples_per_shard": samples_per_shard}
    done = finished(output_dir, made_from)
    if done is not None:
        return done
    synsets = read_nouns(files["noun"])
    with ShardWriter(output_dir, "wordnet", samples_per_shard, made_from, max_bad_share=max_bad_share) as writer, \
            Progress("wordnet", limit or len(synsets), "texts" if limit else "synsets") as progress:
        for synset in sorted(synsets.values(), key=lambda s: order(s.offset)):
            if limit and writer.samples >= limit:
                break
            key = f"wn-n-{synset.offset:08d}"
            text, reason = "", why_not(synset)
            if not reason:
                text = compose(synset, synsets)
                reason = "" if len(text.split()) >= SHORTEST else f"fewer than {SHORTEST} words to say"
            if reason:
                writer.leave_out(reason, key)
            elif writer.begin(key):
                writer.add(Sample(key, {"id": key, "text": text, "language": "en", "domain": synset.domain,
                                        "word": synset.words[0]}))
            if not limit or not reason:
                progress.update()
        return writer.close()


def wordnet_items(corpus_dir: str | Path, held_out: bool = True, min_count: int = 3) -> list[Item]:
    """Common nouns with their definitions, in the order of their offsets.

    ``held_out``: those whose definitions are in no text of prepare_wordnet, not even as a part of another definition;
    False gives the others. One plain lower-case word that was tagged at least ``min_count`` times in this sense, with a
    definition of 4-14 words that does not contain it. A word with several such senses is there once, in its most
    frequent one.
    """
    files = find_files(existing(corpus_dir, "WordNet"))
    counts = read_counts(files["counts"])
    synsets = read_nouns(files["noun"])
    told = "\n".join(s.definition for s in synsets.values() if tellable(s)).lower() if held_out else ""
    best: dict[str, tuple[int, Item]] = {}
    for synset in synsets.values():
        word = synset.words[0]
        count = counts.get(f"{word}%1:{synset.lexfile:02d}:{synset.lex_ids[0]:02d}::", 0)
        if is_held_out(synset.offset) != held_out or count < min_count or not re.fullmatch("[a-z]+", word):
            continue
        if synset.instance or not 4 <= len(synset.definition.split()) <= 14 or word in synset.definition.lower():
            continue
        if synset.definition.lower() not in told and (word not in best or count > best[word][0]):
            best[word] = (count, Item(word, synset.definition, synset.domain, synset.offset))
    return sorted((item for _, item in best.values()), key=lambda item: item.offset)


# ---- reading

def find_files(root: Path) -> dict[str, Path]:
    found = {name: next(iter(sorted(root.rglob(file))), None)
             for name, file in (("noun", "data.noun"), ("counts", "cntlist.rev"))}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise DataError(f"{root} holds no data.noun and cntlist.rev of WordNet", "unpack Debian's wordnet-base there")
    return {name: path for name, path in found.items() if path is not None}


def read_nouns(path: Path) -> dict[int, Synset]:
    """``{offset: synset}``. A line that does not parse is a DataError: the file is not WordNet's."""
    return {synset.offset: synset for synset in records(path, parse)}


def records(path: Path, read: Callable[[str], T]) -> Iterator[T]:
    """``read`` of every line behind the licence. Raises DataError for one that it does not parse."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.startswith(" ") or not line.strip():
                continue
            try:
                yield read(line)
            except (ValueError, LookupError):
                raise DataError(f"{path}: line {number} is not a WordNet 3.0 record",
                                f"use {path.name} of wordnet-base") from None


def parse(line: str) -> Synset:
    head, _, gloss = line.partition("|")
    fields = head.split()
    n_words = int(fields[3], 16)
    words = tuple(fields[4:4 + 2 * n_words:2])
    lex_ids = tuple(int(value, 16) for value in fields[5:5 + 2 * n_words:2])
    place = 4 + 2 * n_words
    pointers = [(fields[place + 1 + 4 * i], int(fields[place + 2 + 4 * i])) for i in range(int(fields[place]))
                if fields[place + 3 + 4 * i] == "n"]
    definition, examples = clean_gloss(gloss)
    lexfile = int(fields[1])
    return Synset(int(fields[0]), DOMAINS[lexfile - 3], words, lex_ids, lexfile, definition, examples,
                  tuple(target for kind, target in pointers if kind == "@"),
                  tuple(target for kind, target in pointers if kind == "~"),
                  any(kind == "@i" for kind, _ in pointers))


def read_counts(path: Path) -> dict[str, int]:
    """``{sense key: times tagged}``."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return {fields[0]: int(fields[2]) for line in file if len(fields := line.split()) == 3}


def clean_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """A gloss → (definition or "", usage examples): the part before the first ``;`` without notes in parentheses; the
    quoted parts that are clauses of plain words."""
    examples = []
    for quoted in re.findall(r'"([^"]+)"', gloss):
        quoted = " ".join(quoted.split())
        shortest = 6 if re.match("(?:a|an|the) ", quoted) else 4  # "the end of the year" is no sentence
        if shortest <= len(quoted.split()) <= 25 and is_plain(quoted):
            examples.append(quoted)
    text = re.sub(r'"[^"]*"', "", gloss)
    text = re.sub(r"\([^()]*\)", " ", text)
    text = re.split(r"[;:]|--|e\.g\.|i\.e\.", text)[0]
    text = re.sub(r"\s+([,.])", r"\1", " ".join(text.split())).strip(" ,.")
    return (text if is_plain(text) and len(text.split()) >= 2 else ""), tuple(examples)


def is_plain(text: str) -> bool:
    """Words, apostrophes, hyphens, commas and a closing mark only: what every voice can read."""
    return (re.fullmatch(r"[A-Za-z][A-Za-z' ,-]*[a-z][.?!]?", text) is not None
            and not re.search(r" -|- |\betc\b", text))


# ---- composing

def is_held_out(offset: int) -> bool:
    return hashlib.blake2b(b"wordnet held out n%08d" % offset, digest_size=8).digest()[0] % HELD_OUT == 0


def order(offset: int) -> bytes:
    return hashlib.blake2b(b"wordnet order n%08d" % offset, digest_size=8).digest()


def why_not(synset: Synset) -> str:
    if is_held_out(synset.offset):
        return "held out for the benchmark"
    if synset.instance or not is_common(synset.words[0]):
        return "a name, or a word with symbols"
    return "" if synset.definition else "definition with symbols"


def is_common(word: str) -> bool:
    return re.fullmatch(r"[a-z]+([_-][a-z]+)*", word) is not None


def compose(synset: Synset, synsets: dict[int, Synset]) -> str:
    """The text about ``synset``: sentences are added in a fixed order while they fit into LONGEST words."""
    sentences: list[str] = []

    def add(sentence: str) -> None:
        if sentence and sum(len(s.split()) for s in sentences) + len(sentence.split()) <= LONGEST:
            sentences.append(sentence)

    name = spaced(synset.words[0])
    add(define(synset))
    others = [spaced(word) for word in synset.words[1:4] if is_common(word)]
    if others:
        add(f"It is also called {listed(others, 'or')}.")
    for example in synset.examples[:2]:
        add(sentence_of(example))
    usable = [s for s in (synsets.get(offset) for offset in synset.hypernyms) if s is not None and tellable(s)]
    for parent in usable[:1]:
        add(define(parent))
        for example in parent.examples[:1]:
            add(sentence_of(example))
    kinds = [s for s in (synsets.get(offset) for offset in synset.hyponyms) if s is not None and is_common(s.words[0])]
    if len(kinds) > 1:
        add(f"Kinds of {name} include {listed([spaced(s.words[0]) for s in kinds[:4]], 'and')}.")
    for kind in [s for s in kinds if tellable(s)][:3]:
        add(define(kind))
    if sum(len(s.split()) for s in sentences) < SHORTEST:  # a leaf of the tree: tell of its neighbours
        for parent in usable[:1]:
            kin = [s for s in (synsets.get(offset) for offset in parent.hyponyms)
                   if s is not None and s.offset != synset.offset and tellable(s)]
            kin.sort(key=lambda s: (order(s.offset ^ synset.offset)))
            for other in kin[:2]:
                add(define(other))
    return " ".join(sentences)


def tellable(synset: Synset) -> bool:
    return not why_not(synset)


def define(synset: Synset) -> str:
    """A sentence that defines; the article of the word follows that of the definition."""
    name, definition = spaced(synset.words[0]), synset.definition
    first = definition.split()[0].lower()
    if first in ("a", "an", "any", "one", "someone", "something"):
        uncountable = synset.domain in UNCOUNTABLE or name.endswith(("ness", "ity", "ism", "ing"))
        return sentence_of(f"{'' if uncountable else article(name) + ' '}{name} is {definition}")
    if first == "the":
        return sentence_of(f"{name} is {definition}")
    forms = (f"{name} means {definition}", f"the word {name} means {definition}", f"by {name} we mean {definition}")
    return sentence_of(forms[order(synset.offset)[0] % len(forms)])


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "usu", "eu", "one", "ura", "uti")) else "a"


def spaced(word: str) -> str:
    return word.replace("_", " ")


def listed(words: list[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def sentence_of(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else text + "."


if __name__ == "__main__":
    main(__doc__, prepare_wordnet)
