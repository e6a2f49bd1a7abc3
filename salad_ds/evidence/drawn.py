"""How a selection spread its budget over the clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def spread(path: Path) -> dict[str, float]:
    """Of a ``clusters.parquet``: ``clusters``, how many there are; ``effective``, how many equal ones would be as
    uncertain as the draw (the perplexity of a drawn text's cluster); ``largest``, the share of the texts that one
    cluster gave. No file: nothing."""
    if not path.is_file():
        return {}
    drawn = pq.read_table(path, columns=["drawn"])["drawn"].to_numpy()
    share = drawn[drawn > 0] / drawn.sum()
    return {"clusters": float(len(drawn)), "effective": float(np.exp(-(share * np.log(share)).sum())),
            "largest": float(share.max())}  # fmt: skip
