"""The machines: published figures of accelerators (gpus.yaml), and how many of them stand where."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import yaml

from salad_ds.errors import RecipeError

TABLE = Path(__file__).with_name("gpus.yaml")

LINK_SHARE = 0.75
"""Of a link's published rate, what NCCL's large all-gathers reach (assumed; nccl-tests tells yours)."""


@dataclass(frozen=True)
class Gpu:
    """``memory`` bytes; ``flops`` bfloat16 operations per second, dense; ``link``, ``network``, ``host`` bytes per
    second in one direction, to the GPUs of the node, out of the node, and to the host's memory."""

    name: str
    memory: float
    flops: float
    link: float
    network: float
    host: float
    source: str


@dataclass(frozen=True)
class Cluster:
    """``network``: bytes per second out of one node, in one direction; ``storage``: bytes per second that the
    shared file system gives to all nodes together, read and written."""

    nodes: int
    gpus_per_node: int
    gpu: Gpu
    network: float
    storage: float

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node

    def __str__(self) -> str:
        machines = f"{self.nodes} node{'s' if self.nodes > 1 else ''} of {self.gpus_per_node} {self.gpu.name}"
        return f"{self.ranks} GPUs: {machines}" if self.ranks > 1 else f"one {self.gpu.name}"


def gpus() -> dict[str, Gpu]:
    """Every accelerator of the table, by name."""
    rows = yaml.safe_load(TABLE.read_text())
    return {name: Gpu(name, row["memory"] * 1e9, row["tflops"] * 1e12, row["link"] * 1e9, row["network"] / 8 * 1e9,
                      row["host"] * 1e9, row["source"]) for name, row in rows.items()}  # fmt: skip


def cluster(nodes: int, gpus_per_node: int, gpu: str, network_gbps: float = 0.0, storage_gbs: float = 20.0,
            ) -> Cluster:
    """``network_gbps``: Gb/s out of one node, 0 for the vendor's own machine; ``storage_gbs``: GB/s of the shared
    file system. Raises RecipeError for an unknown GPU, naming the nearest, and for counts below 1."""
    known = gpus()
    if gpu.lower() not in known:
        near = difflib.get_close_matches(gpu.lower(), known, n=1, cutoff=0.4)
        raise RecipeError(f"there are no figures for the GPU {gpu!r}",
                          (f"did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(known)}; another is a "
                          f"line in {TABLE.name}")  # fmt: skip
    for name, value in (("--nodes", nodes), ("--gpus-per-node", gpus_per_node)):
        if value < 1:
            raise RecipeError(f"{name} is {value}, must be at least 1", f"give {name} 1 or more")
    chosen = known[gpu.lower()]
    network = network_gbps / 8 * 1e9 or chosen.network * gpus_per_node
    return Cluster(nodes, gpus_per_node, chosen, network, storage_gbs * 1e9)
