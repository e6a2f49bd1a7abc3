import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from salad_ds.select.assign import size_bounds
from salad_ds.select.cluster import balanced_kmeans, nearest_rows, telling_words


def skewed(n, d, seed):
    """Unit vectors around centres of very unequal weight, as topics have."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(60, d))
    x = centres[random.choice(60, n, p=random.dirichlet(np.full(60, 0.3)))] + random.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(2, 12), st.integers(120, 700), st.integers(0, 1000))
@settings(max_examples=12, deadline=None)
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
