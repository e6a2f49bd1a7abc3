"""Stage II: which texts are worth speaking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SelectConfig:
    """Active selection of texts to be synthesised (SALAD (arXiv 2510.13632), 'Stage II')."""

    text: str = ""
    """Directory of broad-domain text shards, relative to ``workdir``."""
    out: str = "stage2"
    """Directory of the tables and of the selected speech, relative to ``workdir``."""
    checkpoint: str = "stage1"
    """The student whose misalignment is probed: a stage of this recipe, or a directory."""
    embedder: str = "packaged:minilm"
    """A sentence-transformers directory or hub name, or ``packaged:minilm``."""
    embed_dtype: str = "float32"
    """Of the stored vectors: ``float32``, or ``float16`` for half the bytes (10 M texts of 1024 numbers: 20 GB)."""
    clusters: int = 128
    """How many the texts are divided into."""
    probe_items: int = 8
    """Texts per cluster that are synthesised to measure M(c)."""
    gamma: float = 5.0
    """P_target(c) ∝ P_web(c) · M(c)^gamma."""
    shrink: bool = False
    """Move each M(c) towards their mean, the farther the less its probes tell (sample.shrunk); the paper does not."""
    policy: str = "active"
    """``active`` or ``uniform``."""
    max_cer: float = 0.15
    """Clusters whose probe speech has a higher character error rate are set aside."""
    budget_share: float = 0.01
    """Hours of synthetic speech, as a share of the hours of natural speech."""
    budget_hours: float = 0.0
    """Overrides ``budget_share`` where positive."""
    budget_items: int = 0
    """Overrides both where positive."""
    seed: int = 0
    """Of clustering, probes and draws."""
