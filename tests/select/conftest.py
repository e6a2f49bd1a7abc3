"""A small selection, made by the real code: real text, speech and recogniser, and students with random weights."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from salad_ds.assets import resolve
from salad_ds.config import (
    AdapterConfig,
    EncoderConfig,
    ModelConfig,
    Recipe,
    SelectConfig,
    SourceConfig,
    SynthConfig,
    TrackingConfig,
    TrainConfig,
)
from salad_ds.data.shards import Sample, ShardWriter
from salad_ds.model.build import build_student
from salad_ds.select.after import remeasure
from salad_ds.select.run import select, synthesize_selected
from salad_ds.table import read_table
from tests.browser import chromium, visit

__all__ = ["chromium", "visit"]
DOMAINS = {"05": "animal", "15": "location", "18": "person"}
EACH = 12


def wordnet_texts() -> list[tuple[str, str]]:
    """(domain, definition of 9 to 14 words), EACH per domain."""
    path = next(Path(resolve("packaged:wordnet")).rglob("data.noun"))
    found: list[tuple[str, str]] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            domain = DOMAINS.get(line.split()[1]) if line[0] != " " else None
            if domain is not None and sum(own == domain for own, _ in found) < EACH:
                text = line.split("|", 1)[1].split(";")[0].strip()
                if 9 <= len(text.split()) <= 14 and text.replace(" ", "").isalpha():
                    found.append((domain, text))
    return found


def save_student(recipe: Recipe, stage: str, moved: float) -> None:
    """A student for ``stage`` whose weights are ``moved`` from where all begin."""
    student, tokenizer = build_student(recipe.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.llm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * moved * parameter.std())
    student.save_pretrained(recipe.path(stage) / "model")
    tokenizer.save_pretrained(recipe.path(stage) / "model")


@pytest.fixture(scope="package")
def unmeasured(tmp_path_factory, tiny_llm_dir) -> Recipe:
    """A selection of three clusters, one of them set aside by its real character error rate; nothing measured again."""
    work = tmp_path_factory.mktemp("selection")
    with ShardWriter(work / "text/wordnet", source="wordnet") as writer:
        for i, (domain, text) in enumerate(wordnet_texts()):
            writer.add(Sample(f"w{i:03d}", {"text": text, "domain": domain}))
    made = Recipe(name="small", workdir=str(work), tracking=TrackingConfig(enabled=False))
    made.synth = SynthConfig(workers=1, asr="packaged:whisper-tiny.en", max_cer=1.0)
    made.model = ModelConfig(llm=str(tiny_llm_dir), encoder=EncoderConfig("whisper", "packaged:whisper-tiny.en"),
                             adapter=AdapterConfig(layers=1, width=32, mlp=64, heads=4, kv_heads=2, stack=4))
    made.data.text_words = made.data.speech_words = [2, 4]
    made.select = SelectConfig(text="text/wordnet", clusters=3, probe_items=3, gamma=2.0, max_cer=1.0, budget_items=8)
    made.stages = {name: TrainConfig(sources=[SourceConfig(kind="speech", path=path)], global_batch=1)
                   for name, path in (("stage1", "speech/natural"), ("stage2", "stage2/speech"))}
    save_student(made, "stage1", 0.0)
    rates = sorted(select(made, quiet=True)["cer"].to_pylist())
    made.select.max_cer = (rates[-1] + rates[-2]) / 2  # drawn anew, without the cluster that is heard worst
    select(made, quiet=True)
    synthesize_selected(made)
    return made


@pytest.fixture(scope="package")
def measured(unmeasured) -> tuple[Recipe, pa.Table]:
    """The same with a student of stage2, and its probes measured again: the recipe and probes-stage2.parquet."""
    save_student(unmeasured, "stage2", 0.3)
    return unmeasured, remeasure(unmeasured, "stage2")


@pytest.fixture
def tables(measured):
    """``tables(name)``: the rows of a table of the measured selection."""
    room = measured[0].path("stage2/selection")
    return lambda name: read_table(room / f"{name}.parquet")[0].to_pylist()
