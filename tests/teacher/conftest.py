"""Texts and recipes for the teacher's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from salad_ds.config import DataConfig, ModelConfig, Recipe, SourceConfig, TeacherConfig, TrainConfig
from salad_ds.data.shards import Sample, ShardWriter, make_key

GETTYSBURG = """Four score and seven years ago our fathers brought forth, upon this continent, a new nation, conceived
in Liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war,
testing whether that nation, or any nation so conceived and so dedicated, can long endure. We are met on a great
battle-field of that war. We have come to dedicate a portion of that field, as a final resting place for those who here
gave their lives that that nation might live. It is altogether fitting and proper that we should do this. But, in a
larger sense, we can not dedicate, we can not consecrate, we can not hallow this ground. The brave men, living and dead,
who struggled here, have consecrated it, far above our poor power to add or detract. The world will little note, nor
long remember what we say here, but it can never forget what they did here. It is for us the living, rather, to be
dedicated here to the unfinished work which they who fought here have thus far so nobly advanced. It is rather for us to
be here dedicated to the great task remaining before us, that from these honored dead we take increased devotion to that
cause for which they gave the last full measure of devotion, that we here highly resolve that these dead shall not have
died in vain, that this nation, under God, shall have a new birth of freedom, and that government of the people, by the
people, for the people, shall not perish from the earth."""


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Ten sentences of 9 to 80 words."""
    return [sentence.strip() + "." for sentence in " ".join(GETTYSBURG.split()).split(".") if sentence.strip()]


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[[str, list[str]], None]:
    """Write texts as shards below the work directory."""

    def write(name: str, texts: list[str]) -> None:
        with ShardWriter(tmp_path / name, source="Gettysburg", samples_per_shard=8) as writer:
            for number, text in enumerate(texts):
                writer.add(Sample(make_key(f"{number:03d}"), {"schema": 1, "id": str(number), "text": text}))

    return write


def make_recipe(workdir: Path, llm: Path, stages: dict[str, list[str]], top_k: int = 16, samples: int = 8,
                batch_tokens: int = 128, context: int = 256) -> Recipe:
    return Recipe(
        name="teacher-test", workdir=str(workdir), model=ModelConfig(llm=str(llm)), data=DataConfig(context=context),
        teacher=TeacherConfig(top_k=top_k, samples=samples, batch_tokens=batch_tokens),
        stages={name: TrainConfig(sources=[SourceConfig(kind="text", path=path) for path in paths])
                for name, paths in stages.items()})


@pytest.fixture
def recipe(tmp_path: Path, tiny_llm_dir: Path) -> Callable[..., Recipe]:
    """A recipe on the tiny LLM; ``stages``: name → directories of texts."""

    def make(stages: dict[str, list[str]], **settings: int) -> Recipe:
        return make_recipe(tmp_path, tiny_llm_dir, stages, **settings)

    return make
