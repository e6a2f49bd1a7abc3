"""On a real teacher: how far is the gradient of what a store keeps from that of the whole distribution, and for how
many bytes? ``python -m tests.bench.store`` measures the same with more texts."""

from __future__ import annotations

import pytest

from salad_ds.teacher.sampled import Sampled
from salad_ds.teacher.topk import TopK
from tests.bench.store import angles, bytes_by_part, distributions, embedded, keep, whole_targets

SAMPLED, TOP = Sampled(50), TopK(128, 12)


@pytest.fixture(scope="module")
def real(smollm2_dir):
    """1,000 distributions of SmolLM2, the same model with noise on its weights as the student."""
    return distributions(1000, noise=(0.13,))


@pytest.mark.slow
@pytest.mark.assets
def test_angle_and_bytes_on_a_real_teacher(real, capsys) -> None:
    kept = {"sampled": keep(SAMPLED, real), "topk": keep(TOP, real)}
    size = {(name, vocab): bytes_by_part(rule, vocab, real.texts, records)["file"]
            for name, rule in (("sampled", SAMPLED), ("topk", TOP))
            for vocab, records in ((49152, kept[name]), (151936, embedded(kept[name], 151936)))}
    rival = TopK(15, 0)
    rival_kept = keep(rival, real)
    rival_size = bytes_by_part(rival, 49152, real.texts, rival_kept)["file"]
    divergence, found = angles({
        "sampled": whole_targets(SAMPLED, kept["sampled"], "draws"),
        "topk": whole_targets(TOP, kept["topk"], "draws"),
        "top 15": whole_targets(rival, rival_kept, "renormalise")}, real, real.students[0.13])
    with capsys.disabled():
        print(f"\n{len(real.hidden)} positions, student at KL {divergence:.2f}; bytes/token: "
              + ", ".join(f"{name} {vocab} {value:.1f}" for (name, vocab), value in size.items())
              + f", top 15 {rival_size:.1f}; angles at N = 1, 256, all: "
              + ", ".join(f"{name} " + " ".join(f"{angle:.1f}°" for angle in row) for name, row in found.items()))
    assert 0.5 < divergence < 2
    # One small shard for all: the fewer rows share a list of ranks, the less it pays. Larger ones: docs/bench/store.md.
    assert size["sampled", 49152] <= 40 and size["topk", 49152] <= 230
    assert size["sampled", 151936] <= 43 and size["topk", 151936] <= 245
    assert 0.85 * size["sampled", 49152] <= rival_size
    assert found["sampled"][2] <= 5 and found["topk"][2] <= 5
    assert found["sampled"][2] < 0.6 * found["sampled"][1]  # noise: it falls with the positions
    assert found["top 15"][2] > 4 * found["sampled"][2] and found["top 15"][2] >= found["top 15"][1]  # bias: it stays
