"""Runs against runs on the utterances that they have in common."""

from __future__ import annotations

import json

import numpy as np
import pytest

from salad_ds.evidence.paired import changes


def write(directory, name, rows):
    directory.mkdir(exist_ok=True)
    lines = [{"schema": 1, "made_from": {}}, {"mark": [1, 0, 0, 0], "skipped": [], "rows": rows[:2]},
             {"mark": [2, 0, 0, 0], "skipped": [], "rows": rows[2:]}]  # fmt: skip
    (directory / f"{name}.rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def row(key, tokens, m, **group):
    return {"key": key, "tokens": tokens, "misalignment": m, **group}


def test_the_change_is_the_mean_over_pairs(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    write(own, "speech", [row("a", 10, 5.0), row("b", 20, 6.0)])
    write(other, "speech", [row("b", 20, 8.0), row("a", 10, 4.0)])
    ((name, told),) = changes(own, other, [])
    assert name == "" and told["mean"] == pytest.approx((1.0 - 2.0) / 30)
    residual = np.array([1.0, -2.0]) + np.array([10, 20]) / 30
    assert told["se"] == pytest.approx(np.sqrt((residual**2).sum() / 2) / 15)


@pytest.mark.parametrize("theirs", [
    [row("a", 10, 4.0), row("b", 20, 8.0), row("c", 12, 3.0)], [row("a", 10, 4.0), row("b", 20, 8.0)],
], ids=["one of them cut elsewhere", "one of them missing"])  # fmt: skip
def test_other_utterances_or_cuts_are_not_compared(tmp_path, theirs):
    """Of those that happen to have as many targets the spans lie elsewhere all the same."""
    write(tmp_path / "own", "speech", [row("a", 10, 5.0), row("b", 20, 6.0), row("c", 10, 9.0)])
    write(tmp_path / "other", "speech", theirs)
    assert list(changes(tmp_path / "own", tmp_path / "other", [])) == []


def test_an_utterance_is_compared_within_its_group(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    keys = "abcdef"
    write(own, "pool", [row(key, 10, 1.0, group="left" if key > "b" else "drawn") for key in keys])
    write(other, "pool", [row(key, 10, 2.0, group="left" if key != "d" else "drawn") for key in keys])
    ((name, told),) = changes(own, other, ["pool"])
    assert name == "pool-left" and told["mean"] == pytest.approx(-0.1), "c, e and f; d alone is no group"


def test_what_was_not_measured_has_no_change(tmp_path):
    write(tmp_path / "own", "speech", [row("a", 10, 5.0), row("b", 20, 6.0)])
    write(tmp_path / "other", "speech", [row("a", 10, 5.0)])
    assert list(changes(tmp_path / "own", tmp_path / "other", ["new"])) == []
    assert list(changes(tmp_path / "own", tmp_path / "nowhere", [])) == []
