"""The size of a chunk."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from salad_ds.distill.chunks import CPU_BYTES, CPU_ROWS, DEVICE_BYTES, DEVICE_ROWS, chunk_rows


@given(
    positions=st.integers(0, 100_000), vocabulary=st.integers(2, 300_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]), device=st.sampled_from(["cpu", "cuda"]),
)
def test_chunks_are_even_and_bounded(positions, vocabulary, dtype, device):
    rows = chunk_rows(positions, vocabulary, dtype, torch.device(device))
    least, most = (CPU_ROWS, CPU_BYTES) if device == "cpu" else (DEVICE_ROWS, DEVICE_BYTES)
    tile = 16 if device == "cpu" else 128
    assert rows >= 1
    assert rows <= max(least, most // (vocabulary * dtype.itemsize)) + tile
    if positions > rows:
        chunks = -(-positions // rows)
        assert positions - (chunks - 1) * rows > 0
        assert rows * chunks - positions < tile * chunks, "the last chunk is much smaller than the others"


def test_a_small_batch_is_one_chunk():
    assert chunk_rows(128, 151_936, torch.float32, torch.device("cpu")) >= 128
    assert chunk_rows(1024, 151_936, torch.bfloat16, torch.device("cuda")) >= 1024
    assert chunk_rows(8192, 49_152, torch.bfloat16, torch.device("cuda")) >= 8192
