"""Two real steps under each of several DeepSpeed configs: ``deepspeed ... --module tests.ds_configs.job LLM OUT``.

OUT/configs.json maps names to configs; rank 0 leaves OUT/told.json: for each the losses, what the optimizer holds, and
what travelled while the model and while the frozen encoder worked.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from salad_ds.data.stream import Step
from salad_ds.train.engine import accumulation, start_engine
from salad_ds.train.feed import Feed
from salad_ds.train.steps import Stepper
from salad_ds.zero import sharded_loading, start_processes
from tests.train.parity import ROWS, RandomTeacher, batches, rows_of, stage, student

STEPS = 2
COLLECTIVES = ("all_gather_into_tensor", "all_gather", "all_gather_coalesced", "broadcast", "reduce_scatter_tensor",
               "reduce_scatter", "all_reduce", "reduce", "all_to_all_single")
"""Of DeepSpeed's backend."""


class Traffic:
    """Counts the elements that this rank's collectives carry, by who is at work."""

    def __init__(self) -> None:
        self.who = "else"
        self.carried: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, who: str) -> Iterator[None]:
        before, self.who = self.who, who
        try:
            yield
        finally:
            self.who = before

    def watch(self, backend: Any) -> None:
        for name in COLLECTIVES:
            setattr(backend, name, self.counted(name, getattr(backend, name)))

    def counted(self, name: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            tensors = [value for value in pytree.tree_leaves((given, named)) if isinstance(value, torch.Tensor)]
            self.carried[f"{self.who} {name}"] += max((tensor.numel() for tensor in tensors), default=1)
            return function(*given, **named)
        return call


def steps_under(config: dict[str, Any], llm: str, rank: int, ranks: int, device: torch.device) -> dict[str, Any]:
    settings = stage(STEPS, 1, 0.75)
    config = config | {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": settings.clip,
                       "gradient_accumulation_steps": accumulation(settings, ranks),
                       "zero_allow_untested_optimizer": True}  # fmt: skip
    model = student(llm, sharded_loading(config))
    encoder = model.detach_encoder()
    engine = start_engine(model, settings, config)
    step_of, traffic = Stepper(engine, encoder, RandomTeacher(), settings, ranks, device), TRAFFIC

    def within(who: str, work: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls[who] += 1
            with traffic.of(who):
                return work(*given, **named)
        return call

    calls: Counter[str] = Counter()
    encoder.hear = within("encoder", encoder.hear)
    engine.forward = within("model", engine.forward)
    backward, copies = engine.backward, [0]

    def counting_backward(*given: Any, **named: Any) -> Any:
        copies.append(sum(getattr(p, "ds_secondary_tensor", None) is not None for p in model.parameters()))
        return backward(*given, **named)

    engine.backward = counting_backward  # between the passes hpZ's second copies are there; a step drops them
    traffic.carried.clear()

    def stream() -> Iterator[Step]:
        for step in range(STEPS):
            rows = rows_of(model, encoder, step)
            yield Step(batches(rows[rank * ROWS // ranks : (rank + 1) * ROWS // ranks], 1), [])

    losses = [step_of(work)["loss"] for work in Feed(stream(), step_of.teacher, device)]
    parameters = [p for group in engine.basic_optimizer.param_groups for p in group["params"]]
    held = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    told = {
        "losses": losses,
        "carried": dict(traffic.carried),
        "heard": calls["encoder"],
        "trained": held,
        "encoder": sum(p.numel() for p in encoder.parameters()),
        "encoder_in_zero": sum(hasattr(p, "ds_id") for p in encoder.parameters()),
        "encoder_in_optimizer": sum(any(p is q for q in parameters) for p in encoder.parameters()),
        "encoder_in_engine": sum("encoder" in name for name, _ in engine.module.named_parameters()),
        "optimizer_elements": optimizer_elements(engine),
        "files": sum(path.is_file() for path in swap_folder(config).rglob("*")) if swap_folder(config) else 0,
        "secondary": max(copies),
    }
    engine.destroy()
    return told


def swap_folder(config: dict[str, Any]) -> Path | None:
    """Where parameters and states lie that are in files."""
    place = config["zero_optimization"].get("offload_optimizer", {}).get("nvme_path")
    return Path(place) if place else None


def optimizer_elements(engine: Any) -> int:
    """AdamW's two moments on all ranks together, as far as they are in memory."""
    held = sum(value.numel() for state in engine.basic_optimizer.state.values() for name, value in state.items()
               if name in ("exp_avg", "exp_avg_sq"))  # fmt: skip
    whole = torch.tensor(held)
    dist.all_reduce(whole)
    return int(whole)


def main(llm: str, out: Path) -> None:
    torch.set_num_threads(1)
    rank, ranks, device = start_processes(timeout_minutes=5)
    import deepspeed.comm.comm as communication

    TRAFFIC.watch(communication.cdb)
    found = {}
    for name, config in json.loads((out / "configs.json").read_text()).items():
        found[name] = steps_under(config, llm, rank, ranks, device)
        if rank == 0:
            print(f"{name}: {found[name]}", flush=True)
            (out / "told.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


TRAFFIC = Traffic()

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
