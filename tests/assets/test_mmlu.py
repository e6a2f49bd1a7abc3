"""MMLU questions out of a package that is not imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from salad_ds.assets import mmlu, resolve
from salad_ds.errors import AssetError

pytestmark = pytest.mark.assets


def test_every_question_is_whole():
    directory = Path(resolve("packaged:mmlu-dev"))
    items = [json.loads(line) for line in (directory / "mmlu_dev.jsonl").read_text().splitlines()]
    assert len(items) == 280 and len({item["subject"] for item in items}) == 57
    for item in items:
        assert len(item["choices"]) == 4 and all(item["choices"]) and 0 <= item["answer"] < 4
        assert "(A)" not in item["question"] and "The answer is" not in item["question"]
        assert not any("\n(" in choice or "The answer is" in choice for choice in item["choices"])
    assert json.loads((directory / "asset.json").read_text())["made_from"]["items"] == 280


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(mmlu, "DIGEST", "0" * 64)
    with pytest.raises(AssetError, match=r"lm-eval .* is damaged, or of another version than 0.4.13"):
        mmlu.located()
    monkeypatch.setattr(mmlu, "PACKAGE", "no-such-package-of-ours")
    with pytest.raises(AssetError, match="no-such-package-of-ours is not installed"):
        mmlu.located()
