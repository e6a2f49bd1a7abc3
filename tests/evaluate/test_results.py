"""Rows survive what kills a run; a summary says what it rests on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from salad_ds.errors import DataError
from salad_ds.evaluate.results import Result, RowLog, choose, joined, load, logged, model_name, overall, summarise
from salad_ds.evaluate.shown import counted, table
from salad_ds.files import digest_of

MADE = {"model": "m"}
HEAD = {"schema": 2, "model": "m", "task": "t", "of": 4, "conditions": ["text", "speech"], "seed": 0,
        "shots": {"most": 5}}  # fmt: skip


def row(key: str, best: int, answer: int = 0, domain: str = "") -> dict:
    """Of a condition: option ``best`` is the likeliest per token."""
    scores = [-4.0, -4.0]
    scores[best] = -1.0
    return {"id": key, "domain": domain, "answer": answer, "shots": 2, "characters": [3, 3], "logprob": scores,
            "tokens": [1, 1]}  # fmt: skip


def test_a_log_goes_on_behind_its_last_whole_block(tmp_path: Path):
    log = RowLog(tmp_path, "text.0", MADE)
    log.append([row("a", 0), row("b", 0)])
    log.append([row("c", 0)])
    log.close()
    path = tmp_path / "text.0.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [len(b"".join(lines[:n])) for n in (1, 4, 6)]  # of the head and of each block
    for cut in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(cut >= end for end in ends) - 1
        assert list(logged(tmp_path, "text", digest_of(MADE))) == ["a", "b", "c"][: [0, 2, 3][kept]]
    path.write_bytes(whole[: ends[1]] + b'{"id": "' + b"x" * 5000)  # more than what follows will cover
    log = RowLog(tmp_path, "text.0", MADE)
    log.append([row("c", 0)])
    log.close()
    assert path.read_bytes() == whole


def test_a_log_of_something_else_is_begun_anew(tmp_path: Path):
    for made_from in (MADE, {"model": "other"}):
        log = RowLog(tmp_path, "text.0", made_from)
        log.append([row("a", 0)])
        log.close()
    assert not logged(tmp_path, "text", digest_of(MADE)) and logged(tmp_path, "text", digest_of({"model": "other"}))


def test_normalisation_decides():
    one = {"text_logprob": [-3.0, -4.0, -2.5], "text_tokens": [1, 4, 1], "characters": [1, 2, 1]}
    assert [choose(one, "text", by) for by in ("tokens", "characters", "nothing")] == [1, 1, 2]
    one["characters"] = [9, 2, 1]
    assert choose(one, "text", "characters") == 0


def rows_of(text: list[int], speech: list[int], broken: dict | None = None) -> list[dict]:
    names = [f"i{n}" for n in range(len(text))]
    parts = {condition: {key: row(key, best, domain="ab"[n % 2]) for n, (key, best) in
                         enumerate(zip(names, bests, strict=True))}
             for condition, bests in (("text", text), ("speech", speech))}  # fmt: skip
    parts["speech"] |= broken or {}
    return joined(names, parts)


def test_a_summary_counts_the_same_items_in_both_conditions():
    broken = {"i3": {**row("i3", 0), "error": "it has no speech", "logprob": None}}
    rows = rows_of([0, 0, 1, 0], [0, 1, 1, 0], broken)
    found = summarise(HEAD, rows)
    assert (found["items"], found["of"]) == (3, 4)
    assert found["left_out"] == {"it has no speech": {"count": 1, "examples": ["i3"]}}
    assert (found["text"]["correct"], found["speech"]["correct"]) == (2, 1)
    assert found["gap"]["mean"] == pytest.approx(1 / 3) and found["chance"] == 0.5
    assert {name: part["items"] for name, part in found["domains"].items()} == {"a": 2, "b": 1}
    assert found["domains"]["b"]["gap"]["mean"] == 1.0 and found["shots"] == {"most": 5, "mean": 2.0, "least": 2}


def test_the_gap_of_the_paper_is_against_the_base_llm():
    rows, base = rows_of([0, 0, 1, 0], [0, 1, 1, 0]), rows_of([0, 0, 0, 0], [0, 0, 0, 0])
    found = summarise(HEAD, rows, base)
    assert found["gap"]["mean"] == pytest.approx(0.25) and found["base_gap"]["mean"] == pytest.approx(0.5)
    assert found["base_gap"]["items"] == 4 and found["base_gap"]["first_only"] == 2
    fewer = summarise(HEAD, rows, base[:2])
    assert fewer["base_gap"]["items"] == 2, "items that the base LLM has not answered are no pairs"


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path):
    result = Result(tmp_path / "m", "t", MADE)
    result.begin(HEAD)
    assert load(result.path)["items"] == 0
    for condition, names in (("text", ["i0", "i1", "i2"]), ("speech", ["i0", "i1"])):
        log = result.log(condition, 0)
        log.append([row(name, 0) for name in names])
        log.close()
    found = load(result.path)
    assert (found["complete"], found["items"], found["of"]) == (False, 2, 4)
    assert counted(found) == "2 of 4, not finished"
    assert found["text"]["correct"] == 2
    everything = overall({"t": found}, 0)
    assert not everything["complete"] and counted(everything) == "2 of 4, not finished"
    assert "2 of 4, not finished" in table({"m": {"t": found}}, 0)
    rows = result.finish(rows_of([0] * 4, [0] * 4), ["text", "speech"])
    result.close(summarise(HEAD, rows))
    assert counted(load(result.path)) == "4" and not result.logs.exists()


def test_logs_of_other_weights_are_no_part_of_a_partial_result(tmp_path: Path):
    old = Result(tmp_path / "m", "t", {"model": "old"})
    log = old.log("text", 0)
    log.append([row("i0", 0)])
    log.close()
    new = Result(tmp_path / "m", "t", MADE)
    new.begin({**HEAD, "conditions": ["text"]})
    assert load(new.path)["items"] == 0


def test_several_tasks_are_the_mean_over_them():
    tasks = {name: summarise({**HEAD, "task": name}, rows_of(*both)) | {"complete": True}
             for name, both in {"a": ([0, 0, 0, 0], [0, 0, 1, 1]), "b": ([0, 0, 1, 1], [0, 1, 1, 1])}.items()}
    found = overall(tasks, 0)
    assert found["task"] == "mean of 2 tasks" and (found["items"], found["of"], found["complete"]) == (8, 8, True)
    assert found["text"]["accuracy"] == pytest.approx(0.75) and found["speech"]["accuracy"] == pytest.approx(0.375)
    assert found["gap"]["mean"] == pytest.approx(0.375)
    assert overall({"a": tasks["a"]}, 0)["gap"] == tasks["a"]["gap"]
    shown = table({"stage1": tasks}, 0)
    assert "mean of 2 tasks" in shown and "75.0 %" in shown


@pytest.mark.parametrize("body", ["[]", '{"schema": 1}', '{"schema": 2}', "{torn"])
def test_files_that_are_no_summary_are_named(tmp_path: Path, body: str):
    (tmp_path / "t.json").write_text(body)
    with pytest.raises(DataError, match="t.json"):
        load(tmp_path / "t.json")


def test_a_summary_is_written_when_it_says_something_new(tmp_path: Path):
    result = Result(tmp_path, "t", MADE)
    result.close(summarise(HEAD, rows_of([0] * 4, [0] * 4)))
    before = result.path.stat().st_mtime_ns
    result.close(summarise(HEAD, rows_of([0] * 4, [0] * 4)))
    assert result.path.stat().st_mtime_ns == before and json.loads(result.path.read_text())["complete"] is True


def test_names_of_models():
    assert model_name("base") == "base" and model_name("hf:Qwen/Qwen2-Audio-7B") == "hf-Qwen-Qwen2-Audio-7B"
    assert model_name("hf:/data/models/my model/") == "hf-models-my-model"
