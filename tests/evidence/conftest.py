"""A grid of seconds: a few sentences, spoken; an LLM of one layer; one real cell, stopped on its way and taken up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ANIMALS = "dog cat cow hen fox owl ant bee".split()
SENTENCES = [f"the {one} saw a {other} near the {third} and ran away." for one in ANIMALS for other in ANIMALS[:4]
             for third in ANIMALS[:2]]  # fmt: skip


@pytest.fixture(scope="session")
def recipes(tmp_path_factory) -> Path:
    """A directory like salad_ds/recipes/evidence."""
    root = tmp_path_factory.mktemp("evidence")
    for name, texts in (("all", SENTENCES), ("held", SENTENCES[::9]), ("few", SENTENCES[:12])):
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) for i, text in enumerate(texts)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    work = root / "work"
    recipe = {
        "name": "small", "workdir": str(work), "threads": 1,
        "model": {"llm": str(work / "llm"), "encoder": {"kind": "whisper", "name": "packaged:whisper-tiny.en"},
                  "adapter": {"layers": 1, "width": 16, "mlp": 32, "heads": 2, "kv_heads": 2, "stack": 4}},
        "corpora": [{"kind": "text", "source": str(root / f"{name}.jsonl"), "out": f"text/{name}"}
                    for name in ("all", "held", "few")],
        "synth": {"engine": "hibari", "asr": "", "workers": 1},
        "data": {"context": 128, "text_words": [1, 3], "speech_words": [1, 3], "span_encoding": "words",
                 "features": "cache", "workers": 0},
        "teacher": {"store": "teachers/small"},
        "stages": {"stage1": {
            "sources": [{"kind": "speech", "path": "speech/few"}], "steps": 60, "micro_batch": 2, "global_batch": 2,
            "lr_adapter": 1e-3, "lr_llm": 1e-3, "warmup_steps": 2, "checkpoint_every": 5, "keep": 1,
            "deepspeed": "salad_ds/recipes/evidence/zero1.json", "probe_every": 12, "probe_items": 4}},
        "measure": {"speech": "speech/held", "items": 8, "words": 4, "batch": 8},
        "evaluate": {"tasks": []}, "tracking": {"enabled": False},
    }  # fmt: skip
    own = root / "recipes"
    own.mkdir()
    (own / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (own / "setup.yaml").write_text(yaml.safe_dump({
        "recipe": "recipe.yaml", "llm_texts": "text/all", "llm_held": "text/held",
        "llm": {"vocabulary": 300, "width": 16, "layers": 1, "heads": 2, "mlp": 32, "length": 32, "rows": 4},
        "spoken": {"speech/held": {"text": "text/held"}, "speech/few": {"text": "text/few"},
                   "speech/few-sliced": {"text": "text/few", "settings": ["data.span_encoding=slice"]}},
    }))  # fmt: skip
    (own / "alpha.yaml").write_text(yaml.safe_dump({
        "title": "Small", "question": "Does it run?", "seeds": [0, 1],
        "axes": {"alpha": {"0": ["stages.stage1.alpha=0"]}},
    }))  # fmt: skip
    (own / "active.yaml").write_text(yaml.safe_dump({
        "title": "Selection", "question": "Does it select?", "seeds": [0], "first": ["stages.stage1.alpha=0"],
        "axes": {"drawn": {"by-m": ["select.gamma=1"]}},
        "overrides": [
            "select.text=text/all", "select.clusters=2", "select.probe_items=2", "select.budget_items=3",
            "stages.stage2={init_from: stage1, alpha: 0, sources: [{kind: speech, path: stage2/speech}], "
            "steps: 2, micro_batch: 2, global_batch: 2, deepspeed: salad_ds/recipes/evidence/zero1.json}",
            "measure.sets=[{name: selected, path: stage2/speech}, {name: all, path: speech/held, by: drawn}]"],
    }))  # fmt: skip
    (own / "voices.yaml").write_text("title: Later\nquestion: Whether.\nneeds: more voices.\nseeds: []\n")
    return own
