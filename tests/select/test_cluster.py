import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from salad_ds.select import assign
from salad_ds.select.assign import size_bounds
from salad_ds.select.cluster import balanced_kmeans, nearest_rows, telling_words


def skewed(n, d, seed):
    """Unit vectors around centres of very unequal weight, as topics have."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(60, d))
    x = centres[random.choice(60, n, p=random.dirichlet(np.full(60, 0.3)))] + random.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(2, 12), st.integers(120, 700), st.integers(0, 1000))
@settings(max_examples=12)
def test_sizes_lie_within_a_tenth_of_equal(k, n, seed):
    x = skewed(n, 8, seed)
    found = balanced_kmeans(x, k, seed, steps=4)
    low, high = size_bounds(n, k)
    assert low <= found.sizes.min() and found.sizes.max() <= high and found.sizes.sum() == n
    own = ((x - found.centres[found.labels]) ** 2).sum(1).mean()
    np.testing.assert_allclose(found.inertia, own, rtol=1e-3)


def test_equal_blobs_are_found_as_well_as_by_plain_kmeans():
    random = np.random.default_rng(0)
    centres = random.normal(size=(16, 32)) * 4
    x = (np.repeat(centres, 100, axis=0) + random.normal(size=(1600, 32))).astype(np.float32)
    found = balanced_kmeans(x, 16, 0)
    plain = KMeans(16, n_init=10, random_state=0).fit(x)
    assert found.inertia < 1.02 * plain.inertia_ / len(x)
    assert (found.sizes == 100).all()


def test_balance_costs_little_on_unequal_topics():
    x = skewed(3000, 24, 1)
    found = balanced_kmeans(x, 16, 0)
    plain = KMeans(16, n_init=3, random_state=0).fit(x)
    assert found.inertia < 1.10 * plain.inertia_ / len(x)
    assert found.inertia < 0.9 * ((x - x.mean(0)) ** 2).sum(1).mean(), "clusters must still be clusters"


def test_the_seed_decides_all(tmp_path):
    x = skewed(900, 16, 2)
    np.save(tmp_path / "x.npy", x)
    a, b = balanced_kmeans(x, 10, 3), balanced_kmeans(np.load(tmp_path / "x.npy", mmap_mode="r"), 10, 3)
    assert np.array_equal(a.labels, b.labels) and np.array_equal(a.centres, b.centres)
    assert not np.array_equal(a.labels, balanced_kmeans(x, 10, 4).labels)


def test_threads_and_samples_change_nothing_and_little(monkeypatch):
    x = skewed(6000, 16, 3)
    whole = balanced_kmeans(x, 8, 0)
    monkeypatch.setattr("salad_ds.select.cluster.SAMPLE_PER_CLUSTER", 100)
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(assign, "cores", lambda threads=threads: threads)
        found.append(balanced_kmeans(x, 8, 0))
    assert np.array_equal(found[0].labels, found[1].labels) and np.array_equal(found[0].centres, found[1].centres)
    assert found[0].inertia < 1.02 * whole.inertia, "centres that were found on a seventh of the points"


def test_vectors_of_half_precision_give_nearly_the_same_clusters():
    x = skewed(2000, 24, 4)
    whole, half = balanced_kmeans(x, 8, 0), balanced_kmeans(x.astype(np.float16), 8, 0)
    assert (whole.labels == half.labels).mean() > 0.95 and half.inertia < 1.001 * whole.inertia


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_vectors_stay_within_the_memory_that_the_docstring_says(tmp_path):
    n, d, k = 40_000, 384, 64
    random = np.random.default_rng(0)
    centres = random.normal(size=(400, d)).astype(np.float32)
    weights = random.dirichlet(np.full(400, 0.3))
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(n, d))
    for first in range(0, n, 20_000):
        part = centres[random.choice(400, 20_000, p=weights)] + 1.5 * random.normal(size=(20_000, d))
        x[first:first + 20_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    x.flush()
    job = ("import json, sys, numpy as np; from salad_ds.select.cluster import balanced_kmeans as f; "
           "x = np.load(sys.argv[1], mmap_mode='r'); print('ready', flush=True); input(); "
           "a = f(x, 64, 0); "
           "print(json.dumps([a.inertia, a.sizes.tolist()]))")
    process = subprocess.Popen([sys.executable, "-c", job, str(tmp_path / "x.npy")], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    anonymous, before, peak = 0, 0, 0
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n", "what the imports take is no part of it"
    began = time.monotonic()
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        anonymous = int(status.split("RssAnon:")[1].split()[0]) * 1024 if "RssAnon:" in status else 0
        if not before:
            before = anonymous
            process.stdin.write("\n")
            process.stdin.flush()
        peak = max(peak, anonymous)
        time.sleep(0.005)
    inertia, sizes = json.loads(process.stdout.read())
    sample = 256 * k
    threads = assign.cores()
    formula = 4 * n * k + 40 * n + 8 * sample * (d + k) + 8 * 16384 * (d + k) * threads
    print(f"{time.monotonic() - began:.0f} s, {(peak - before) / 1e6:.0f} MB of {formula / 1e6:.0f} MB")
    assert peak - before < formula + (64 << 20)
    low, high = size_bounds(n, k)
    assert low <= min(sizes) and max(sizes) <= high
    rows = random.choice(n, 20_000, replace=False)
    plain = KMeans(k, n_init=1, max_iter=25, random_state=0).fit(np.asarray(x[rows]))
    assert inertia < 1.06 * plain.inertia_ / len(rows), "the price of balance, on topics of very unequal size"


def test_clusters_can_be_named():
    texts = ["the river bank flooded", "river water rises in spring", "a river boat", "the piano sonata",
             "a piano concert", "piano and violin"]
    assert [words[0] for words in telling_words(texts, np.array([0, 0, 0, 1, 1, 1]), 2)] == ["river", "piano"]
    x = skewed(200, 8, 5)
    found = balanced_kmeans(x, 4, 0)
    for cluster, rows in enumerate(nearest_rows(x, found, 3)):
        distance = ((x - found.centres[cluster]) ** 2).sum(1)
        members = np.flatnonzero(found.labels == cluster)
        assert set(rows) == set(members[np.argsort(distance[members])[:3]])


def test_telling_words_are_whole_in_any_script():
    told = telling_words(["the café of NASA", "река течёт"], np.array([0, 1]), 2)
    assert told == [["café", "nasa"], ["река", "течёт"]]
