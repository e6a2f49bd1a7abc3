"""How many positions' logits are alive at a time.

A larger chunk makes the products more efficient: each reads the weight (and adds to dW) once per chunk, so C rows do C
multiplications for each number of the weight that comes from memory. A smaller one saves memory, and on a CPU stays in
the cache between the product that writes the logits, the softmax, and the two products that read them.

- CPU: the last-level cache, taken as 30 MB. It is also just below the 32 MiB from which glibc gives a freed buffer back
  to the system: a larger one would be made of fresh pages in every micro-batch, and a fresh page costs ten times as
  much as writing to it. But never fewer than 128 rows: with them the products are bound by arithmetic, not by memory,
  whatever V and H are (their rate levels off between 64 and 256 rows).
- CUDA: one GiB, at least 1024 rows, in multiples of 128 (a tile of the product). dW in float32 is read and written once
  per chunk, 8 V H bytes against 2 C V H operations: 1024 rows are 256 operations per byte, and a GPU does 150 to 200 in
  the time of one byte.

The positions are divided evenly, so that there is no small last chunk, and N positions that fit are one chunk: a small
batch then runs the same three products as without this op.

Shape letters: N positions, V vocabulary.
"""

from __future__ import annotations

import torch

CPU_BYTES, CPU_ROWS = 30_000_000, 128
DEVICE_BYTES, DEVICE_ROWS, DEVICE_TILE = 1 << 30, 1024, 128


def chunk_rows(positions: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of a chunk of logits [rows, V] of ``dtype``."""
    row = vocabulary * dtype.itemsize
    if device.type == "cpu":
        most, tile = max(CPU_ROWS, CPU_BYTES // row), 16
    else:
        most, tile = max(DEVICE_ROWS, DEVICE_BYTES // row // DEVICE_TILE * DEVICE_TILE), DEVICE_TILE
    chunks = -(-positions // most)
    return most if chunks <= 1 else -(-positions // chunks // tile) * tile
