"""What ranks say of themselves, and what is made of it: real facts of this machine, changed on one host."""

from __future__ import annotations

import copy

import pytest

from salad_ds.cluster.agreement import Job, compare, listed, odd_ones, span
from salad_ds.cluster.facts import facts_of, flat
from salad_ds.config import load_recipe
from salad_ds.doctor import FAULT, NOTE, OK

HOSTS = {0: "a", 1: "a", 2: "b", 3: "b", 4: "c", 5: "c"}


@pytest.fixture(scope="module")
def own():
    """(facts of a host's first rank, of another of its ranks)."""
    recipe = load_recipe("salad_ds/recipes/tiny.yaml", ["workdir=/nonexistent/work", "stages.stage1.global_batch=6",
                                                        "model.llm=/nonexistent/llm"])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "6")
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        first, other = (facts_of(recipe, ["stage1"], leads) for leads in (True, False))
    first["network"] |= {"address": "10.0.0.1", "own": "10.0.0.1", "interface": "eth0", "interfaces": "lo,eth0",
                         "gloo": "", "nccl": ""}  # fmt: skip
    first["disk"] |= {"work": 1e12, "shm": 1e11}  # this machine may have little
    first["shards"] = dict.fromkeys(first["shards"], "0a1b, 9 samples in 1 shards")
    first["store"] = "2c3d, 1 files, 0 MB"
    first["models"] = dict.fromkeys(first["models"], "4e5f")
    return first, other


@pytest.fixture
def facts(own):
    return [copy.deepcopy(own[rank % 2]) for rank in HOSTS]


def found(facts) -> list[tuple[str, str, str]]:
    findings = list(compare(Job(HOSTS, facts)))
    assert all(bool(finding.mend) == (finding.state != OK) for finding in findings), findings
    return [(finding.state, finding.name, finding.found) for finding in findings]


def test_hosts_that_agree_have_no_line_to_mend(facts):
    lines = found(facts)
    assert {state for state, _, _ in lines} == {OK}, lines
    assert lines[0] == (OK, "ranks", "6 ranks on 3 hosts: a 0-1, b 2-3, c 4-5")
    assert {name for _, name, _ in lines} >= {"code", "versions", "recipe", "DeepSpeed", "environment", "shards",
                                              "teacher store", "model", "GPUs", "interfaces", "disk"}  # fmt: skip


def change(path, value, *ranks):
    def apply(facts) -> None:
        for rank in ranks:
            inner = facts[rank]
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value

    return apply


def both(*changes):
    return lambda facts: [apply(facts) for apply in changes]


def cards(idents):
    """Every rank has a GPU; ranks of one host with the same letter, the same."""

    def apply(facts) -> None:
        for said, ident in zip(facts, idents, strict=True):
            said["device"] = {"GPU": "H200, 141 GiB", "id": ident, "driver": "570.1"}

    return apply


OTHER_CODE = both(change(["code"], "other", 2, 3), change(["files", "train/loop.py"], "?", 2))


@pytest.mark.parametrize(
    ("apply", "state", "name", "told"),
    [
        (change(["size"], "8", 4, 5), FAULT, "ranks", "c has 8; the others 6 ranks"),
        (OTHER_CODE, FAULT, "code", "b has another salad_ds"),
        (OTHER_CODE, FAULT, "code", ": train/loop.py"),
        (change(["versions", "torch"], "2.12.0", 4, 5), FAULT, "versions", "torch: c has 2.12.0; the others 2."),
        (change(["versions", "NCCL"], "2.20", 3), FAULT, "versions", "NCCL: b (rank 3) has 2.20; the others none"),
        (change(["recipe", "stages.stage1.steps"], "5", 2, 3), FAULT, "recipe", ".steps: b has 5; the others 4"),
        (change(["deepspeed", "stage1"], "!no x.json", *range(6)), FAULT, "DeepSpeed", "stage1: no x.json"),
        (change(["deepspeed", "stage1"], "abc", 4, 5), FAULT, "DeepSpeed", "stage1: c has abc"),
        (change(["variables", "NCCL_DEBUG"], "INFO", 0, 1), NOTE, "environment", "a has INFO; the others none"),
        (change(["shards", "text/plain"], "", 4), FAULT, "shards", "text/plain: c has none; the others 0a1b"),
        (change(["shards", "text/plain"], "!000001.tar is missing", 2), FAULT, "shards", "text/plain: b: 000001.tar"),
        (change(["shards", "text/plain"], "", 0, 2, 4), NOTE, "shards", "text/plain: not there yet"),
        (change(["store"], "77, 2 files, 1 MB", 2), FAULT, "teacher store", "b has 77, 2 files"),
        (change(["models", "/nonexistent/llm"], "", 0, 2, 4), NOTE, "model", "/nonexistent/llm is on no host"),
        (change(["network", "own"], "127.0.1.1", 4), FAULT, "interfaces", "c calls itself 127.0.1.1"),
        (change(["network", "gloo"], "ib0", 2), FAULT, "interfaces", "b has no interface ib0 (lo,eth0)"),
        (change(["network", "nccl"], "=ib", 2), FAULT, "interfaces", "b has no interface =ib"),
        (change(["disk", "work"], 1e9, 2), NOTE, "disk", "b has 1.0 GB free for workdir"),
        (change(["disk", "shm"], 64e6, 4), NOTE, "shared memory", "c has 0.1 GB free in /dev/shm"),
        (cards("001212"), FAULT, "GPUs", "a: ranks 0-1 have one GPU together"),
        (both(cards("010101"), change(["device"], {}, 5)), FAULT, "GPUs", "c (rank 5) has none"),
        (both(cards("010101"), change(["device", "GPU"], "A100", 4)), NOTE, "GPUs", "c has A100; the others H200"),
        (both(cards("010101"), change(["device", "driver"], "535", 2)), NOTE, "drivers", "b has 535; the others 570.1"),
    ],
)  # fmt: skip
def test_a_disagreement_names_the_host(facts, apply, state, name, told):
    apply(facts)
    lines = found(facts)
    assert any((state, name) == line[:2] and told in line[2] for line in lines), lines
    assert not [line for line in lines if line[0] == FAULT and line[1] != name], "and nothing else is at fault"


@pytest.mark.parametrize("wanted", ["=eth0", "eth", "^docker0", "eth0:1"])
def test_nccl_names_interfaces_its_own_way(facts, wanted):
    change(["network", "nccl"], wanted, 0, 2, 4)(facts)
    assert all(state == OK for state, name, _ in found(facts) if name == "interfaces")


def test_the_majority_counts_as_right_and_of_a_tie_the_lowest_rank():
    assert odd_ones({0: "x", 1: "y", 2: "y"}) == ("y", {"x": [0]})
    assert odd_ones({0: "x", 1: "y"}) == ("x", {"y": [1]})


def test_lines_stay_short():
    assert listed([f"h{i}" for i in range(64)]) == "h0, h1, h2, h3, h4, h5 and 58 more"
    assert span([3]) == "3" and span([0, 1, 2]) == "0-2" and span([0, 2]) == "0,2"
    assert flat({"a": {"b": [1, 2]}, "c": None}) == {"a.b": "[1, 2]", "c": "null"}
