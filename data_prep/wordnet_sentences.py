"""WordNet 3.0 in a restricted vocabulary: definitions and usage examples all of whose words are common ones, so that a
small corpus of speech says each of them many times.

Debian's ``wordnet-base``: of ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv`` the gloss behind the bar and
the lexicographer file, the second field:

    03640660 06 n 01 lane 1 005 @ 03899328 n 0000 ~ 02882014 n 0000 ... | a well-defined track or path; for e.g. ...

``words``: a sentence is taken when each of its words is among this many most frequent ones of all sentences (0: all
words). ``min_words``: shortest sentence. ``text_words``: sentences of one lexicographer file are joined into texts of
at least this many words, so that spans alternate. ``domains``: names of lexicographer files, with commas, or their
beginnings (``noun.animal,verb``); all by default. ``split``: ``test`` is an eighth of the sentences, by a hash of the
words; no text of ``train`` holds one of them. Letters are small ones: a word is the same wherever it stands.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.wordnet import DOMAINS, clean_gloss, records
from salad_ds.data.preparation import existing, fingerprint, main
from salad_ds.data.shards import Sample, ShardWriter, finished
from salad_ds.errors import DataError
from salad_ds.progress import Progress

VERSION = 1
TEST = 8  # one sentence in eight
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LEXFILES = dict(enumerate((
    "adj.all adj.pert adv.all " + " ".join(DOMAINS) + " verb.body verb.change verb.cognition verb.communication "
    "verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception "
    "verb.possession verb.social verb.stative verb.weather adj.ppl").split()))  # fmt: skip
"""Lexicographer files, as lexnames(5WN) numbers them."""


def prepare_wordnet_sentences(corpus_dir: str | Path, output_dir: str | Path, limit: int = 0,
                              samples_per_shard: int = 256, split: str = "all", words: int = 0, min_words: int = 4,
                              text_words: int = 20, domains: str = "", max_bad_share: float = 0.05) -> dict[str, Any]:
    """Write the texts as text shards; returns the manifest. Does nothing where they lie there already.

    The order is that of a hash, so that the first ``limit`` texts are of all domains. Raises DataError for an unknown
    split or domain, and where ``corpus_dir`` is not WordNet's.
    """
    if split not in ("all", "train", "test"):
        raise DataError(f"split {split!r} is not all, train or test", "mend the corpus's split")
    files = find_files(existing(corpus_dir, "WordNet"))
    chosen = named(domains)
    made_from = {"corpus": "wordnet_sentences", "version": VERSION, "source": fingerprint(files[0].parent, files),
                 "limit": limit, "samples_per_shard": samples_per_shard, "split": split, "words": words,
                 "min_words": min_words, "text_words": text_words, "domains": domains}
    done = finished(output_dir, made_from)
    if done is not None:
        return done
    sentences = read_sentences(files)
    common = most_common(sentences, words)
    kept = [sentence for sentence, domain in sorted(sentences.items(), key=lambda item: digest(item[0]))
            if domain in chosen and (split == "all" or is_test(sentence) == (split == "test"))
            and len(sentence.split()) >= min_words and common.issuperset(spoken(sentence))]
    with ShardWriter(output_dir, "wordnet_sentences", samples_per_shard, made_from,
                     max_bad_share=max_bad_share) as writer, Progress("sentences", len(kept), "sentences") as progress:
        for key, text, domain in joined(kept, sentences, text_words):
            if limit and writer.samples >= limit:
                break
            if writer.begin(key):
                writer.add(Sample(key, {"id": key, "text": text, "language": "en", "domain": domain}))
            progress.update(text.count("."))
        return writer.close()


def find_files(root: Path) -> list[Path]:
    found = [next(iter(sorted(root.rglob(name))), None) for name in FILES]
    if None in found:
        raise DataError(f"{root} holds no {', '.join(FILES)} of WordNet", "unpack Debian's wordnet-base there")
    return [path for path in found if path is not None]


def named(domains: str) -> set[str]:
    """The lexicographer files that ``domains`` names. Raises DataError for a name that is none of them."""
    wanted = [name.strip() for name in domains.split(",") if name.strip()]
    for name in wanted:
        if not any(domain.startswith(name) for domain in LEXFILES.values()):
            raise DataError(f"WordNet has no domain {name!r}", f"use some of {', '.join(LEXFILES.values())}")
    return {domain for domain in LEXFILES.values() if not wanted or domain.startswith(tuple(wanted))}


def read_sentences(files: list[Path]) -> dict[str, str]:
    """{sentence: domain}: definitions and examples in small letters, without a closing mark, each once.

    Raises DataError for a line that does not parse: the file is not WordNet's.
    """
    found: dict[str, str] = {}
    for path in files:
        for domain, gloss in records(path, parse):
            definition, examples = clean_gloss(gloss)
            for sentence in filter(None, (definition, *examples)):
                found.setdefault(sentence.lower().rstrip(".?!"), domain)
    return found


def parse(line: str) -> tuple[str, str]:
    """(domain, gloss). Raises ValueError or LookupError."""
    head, _, gloss = line.partition("|")
    return LEXFILES[int(head.split()[1])], gloss


def spoken(sentence: str) -> list[str]:
    return re.findall(r"[a-z'-]+", sentence)


def most_common(sentences: dict[str, str], words: int) -> set[str]:
    """The ``words`` most frequent words (0: all); of equally frequent ones the first in the alphabet."""
    counts = Counter(word for sentence in sentences for word in spoken(sentence))
    return set(sorted(counts, key=lambda word: (-counts[word], word))[: words or None])


def joined(kept: list[str], domain_of: dict[str, str], text_words: int) -> Iterator[tuple[str, str, str]]:
    """(key, text, domain): neighbours of one domain, each closed by a full stop, until ``text_words`` words are there.
    What is left over of a domain at the end is left out."""
    waiting: dict[str, list[str]] = {}
    for sentence in kept:
        own = waiting.setdefault(domain_of[sentence], [])
        own.append(sentence)
        if sum(len(one.split()) for one in own) >= text_words:
            text = " ".join(f"{one}." for one in own)
            yield f"wns-{digest(text).hex()}", text, domain_of[sentence]
            own.clear()


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"wordnet").digest()


def is_test(sentence: str) -> bool:
    return digest(f"test {sentence}")[0] % TEST == 0


if __name__ == "__main__":
    main(__doc__, prepare_wordnet_sentences)
