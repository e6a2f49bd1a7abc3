from hypothesis import given
from hypothesis import strategies as st

from salad_ds.data.plan import Skipped
from salad_ds.data.rejections import too_many


@given(st.integers(0, 60), st.integers(1, 60))
def test_a_share_of_nothing_tolerates_nothing(bad, more):
    assert too_many(bad, bad + more, 0.0) == (bad > 0)
    assert Skipped(0.0).too_many(bad + more, bad) == (bad > 0)


def test_a_few_are_no_share_of_a_small_corpus():
    assert not too_many(4, 6, 0.05) and too_many(5, 6, 0.05) and too_many(4, 4, 0.05)
    assert not Skipped(0.05).too_many(6, 4) and Skipped(0.05).too_many(6, 5)
