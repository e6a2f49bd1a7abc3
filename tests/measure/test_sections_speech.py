"""The report's section on hearing, from files of the measurement's own making."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from salad_ds.config import MeasureSetConfig, Recipe
from salad_ds.files import write_json
from salad_ds.measure.report import report
from salad_ds.measure.statistics import QUANTITIES, ratio, summary
from salad_ds.measure.words import CONDITIONS, DISTANCE, HEARING, accuracies
from tests.measure.test_report import Elements, visible, write_run


def predicted(checkpoint: str) -> dict:
    """What Words.result writes, from drawn counts."""
    random = np.random.default_rng(1)
    shape = (24, DISTANCE)
    table = {"words": random.integers(1, 4, shape).astype(float)}
    table["tokens"] = table["words"] * 2
    for name, share in zip(CONDITIONS, (0.5, 0.4, 0.3, 0.25), strict=True):
        for kind in ("word", "token"):
            table[f"{kind}.{name}"] = random.binomial(table[f"{kind}s"].astype(int), share).astype(float)
    for name, nats in zip(HEARING, (0.2, 0.5, 0.6), strict=True):
        table[f"kl.{name}"] = table["tokens"] * nats
    overall = {name: values.sum(-1) for name, values in table.items()}
    return {"schema": 1, "checkpoint": checkpoint, "items": 24, "spans": 48, "distance": DISTANCE,
            "overall": accuracies(overall),
            "by_distance": [accuracies({name: values[:, d] for name, values in table.items()})
                            for d in range(DISTANCE)]}  # fmt: skip


def of_domains(checkpoint: str) -> dict:
    """What Named.result writes, of text in two groups."""
    random = np.random.default_rng(2)

    def part(n: int) -> dict:
        tokens = random.integers(5, 30, n).astype(float)
        table = {"tokens": tokens, "heard": tokens, **{name: tokens * random.random(n) for name in QUANTITIES}}
        return {**summary(table), "cer": ratio(random.random(n) / 9, np.ones(n))}

    def read(n: int) -> dict:
        return {"items": n, "tokens": 99 * n, "forgetting": {"mean": 0.0123, "se": 0.001}}

    groups = {"weather": part(7), "<b>science</b>": part(5)}
    return {"schema": 1, "checkpoint": checkpoint, "set": "domains", "kind": "text", "path": "x", "by": "domain",
            "overall": part(12), "groups": groups,
            "reading": {"overall": read(13), "groups": {name: read(6) for name in groups}}}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Recipe:
    recipe = write_run(tmp_path_factory.mktemp("whole"))
    recipe.measure.words, recipe.measure.sets = 24, [MeasureSetConfig("domains", "x", 0, "domain")]
    recipe.stages["stage1"].probe_every = 40
    for checkpoint in ("stage1", "stage2"):
        write_json(recipe.path(f"measure/{checkpoint}/words.json"), predicted(checkpoint))
    write_json(recipe.path("measure/stage2/domains.json"), of_domains("stage2"))
    rows = [{"step": step, "items": 8.0, "misalignment": 1.0 - step / 200, "misalignment_wrong_speech": 1.0,
             "misalignment_se": 0.03, "forgetting": step / 900, "distillation": 1.1 - step / 200}
            for step in (0, 40, 80, 120)]  # fmt: skip
    recipe.path("stage1/probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(recipe)
    return recipe


def test_words_sets_and_probes_are_shown_with_their_counts(run):
    html = run.path("report/index.html").read_text()
    words = visible(html)
    right = predicted("stage1")["overall"]["word"]["right"]["mean"]
    for piece in ("The words behind a span", "words right, hearing it, %", f"{100 * right:.1f} ±", "spans 48 48",
                  "domains at stage2", "all 12", "weather 7", "&lt;b&gt;science", "F of whole texts", "0.012",
                  "8 utterances of held-out speech"):
        assert piece in words, piece
    Elements(html)
    drawn = re.findall(r'aria-label="([^"]+)"', html)
    assert any("M ends at 0.400" in label for label in drawn) and any("first 5 words" in label for label in drawn)
    assert "#0" not in "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S)), "every colour is one of the page's"


def test_what_was_not_measured_is_named_and_numbers_are_in_the_summary(run):
    body = json.loads(run.path("report/summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    absent = {row["file"] for row in body["missing"]}
    assert {"measure/init/words.json", "measure/init/domains.json", "measure/stage1/domains.json"} <= absent
    assert "stage2/probes.jsonl" not in absent, "it was not to be probed"
    assert body["words"]["stage2"]["items"] == 24 and body["set domains"]["stage2"]["overall"]["items"] == 12
    assert [row["step"] for row in body["training"]["stage1"]["probes"]] == [0, 40, 80, 120]


def test_files_of_another_checkpoint_are_refused_by_name(run, tmp_path: Path):
    write_json(run.path("measure/init/words.json"), predicted("stage1"))
    run.path("measure/init/domains.json").write_text("{torn")
    words = visible(report(run).read_text())
    assert "measure/init/words.json cannot be used" in words and "measure/init/domains.json cannot be used" in words
