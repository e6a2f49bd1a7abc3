"""Checkpoints: what a step waits for one that is written at once, and for one that is written beside the steps.

    python -m tests.bench.checkpoint [--parameters 40] [--rounds 3] [--write]

A stack of linear layers under ZeRO-3 with AdamW in one process, one thread of torch: what a checkpoint costs depends on
its bytes, 12 for each parameter. A round is some steps, a checkpoint, and steps until it is whole.

- *pause*: seconds until the step behind the checkpoint may begin;
- *beside*: seconds that the steps take longer, all together, while it is written;
- *whole*: seconds until it has its name. Ours is then on disk, with a checksum of every file;
- *memory*: MiB more than without checkpoints, at most.

*decoupled* is DeepSpeed's own writer in a process of its own (``checkpoint.writer``, type ``python``), which neither
syncs nor checks; its state travels through /dev/shm, and the step behind the checkpoint waits before it changes the
weights until all is written. ``--write`` puts the table into docs/bench/checkpoint.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from salad_ds.environment import cores, free_port, prepare_environment

PAGE = Path(__file__).parents[2] / "docs/bench/checkpoint.md"
WAYS = {"at once": "stages.*.async_checkpoints: false", "beside": "stages.*.async_checkpoints: true",
        "decoupled": "DeepSpeed's, for comparison"}
WIDTH, QUIET, MOST = 1024, 6, 200


def engine_of(parameters: int, way: str) -> Any:
    import deepspeed
    import torch
    from torch import nn

    from salad_ds.zero import start_processes

    torch.set_num_threads(1)
    start_processes()
    layers = max(parameters * 1000000 // (WIDTH * (WIDTH + 1)), 1)
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(layers)])
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3},
                              "zero_allow_untested_optimizer": True, "steps_per_print": 10**9}  # fmt: skip
    if way == "decoupled":
        config["checkpoint"] = {"writer": {"type": "python", "decoupled": True}}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def step(engine: Any) -> float:
    """One optimizer step; its seconds."""
    import torch

    began = time.perf_counter()
    engine.backward(engine(torch.randn(64, WIDTH)).pow(2).mean())
    engine.step()
    return time.perf_counter() - began


def measure(way: str, parameters: int, rounds: int, directory: Path) -> dict[str, Any]:
    """Medians over the rounds, in seconds."""
    from salad_ds.train.saver import Saver

    engine = engine_of(parameters, way)
    saver = Saver(engine, directory, "bench", 1, later=way == "beside") if way != "decoupled" else None
    step(engine), step(engine)
    before = peak()
    found: dict[str, list[float]] = {"pause": [], "beside": [], "whole": [], "step": []}
    for number in range(rounds + 1):
        usual = median(step(engine) for _ in range(QUIET))
        began = time.perf_counter()
        if saver is None:
            engine.save_checkpoint(str(directory), tag=str(number), save_latest=False)
        else:
            saver(number, {})
        pause, more = time.perf_counter() - began, 0.0
        for _ in range(MOST):
            if saver is None and engine.checkpoint_engine.get_commit_info() is None:
                break
            if saver is not None and not (saver.thread is not None and saver.thread.is_alive()):
                break
            more += step(engine) - usual
        whole = time.perf_counter() - began
        if saver is not None:
            saver.wait()
        if number:  # the first one gets its memory, or starts its process
            for name, value in (("pause", pause), ("beside", more), ("whole", whole), ("step", usual)):
                found[name].append(value)
    newest = max(path for path in directory.iterdir() if path.is_dir())
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    engine.checkpoint_engine.cleanup()
    return {name: median(values) for name, values in found.items()} | {"bytes": size, "memory": peak() - before}


def peak() -> float:
    """MiB of this process and its children, at most so far."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def alone(way: str, parameters: int, rounds: int) -> dict[str, Any]:
    """The same in a process of its own."""
    settings = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port()), "CROSS_SIZE": "1", "CROSS_RANK": "0"}  # fmt: skip
    words = [sys.executable, "-m", "tests.bench.checkpoint", "--one", way, "--parameters", str(parameters),
             "--rounds", str(rounds)]  # fmt: skip
    done = subprocess.run(words, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parameters", type=int, default=40, help="millions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    prepare_environment()
    if arguments.one:
        with tempfile.TemporaryDirectory() as directory:
            told = measure(arguments.one, arguments.parameters, arguments.rounds, Path(directory))
        print(json.dumps(told))
        return
    lines = ["| | pause s | beside s | whole s | memory MiB | a step s | checkpoint MiB |", "|---" * 7 + "|"]
    for way, what in WAYS.items():
        told = alone(way, arguments.parameters, arguments.rounds)
        lines.append(f"| {way} ({what}) | {told['pause']:.2f} | {told['beside']:.2f} | {told['whole']:.2f} | "
                     f"{told['memory']:.0f} | {told['step']:.2f} | {told['bytes'] / 2**20:.0f} |")
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if arguments.write:
        PAGE.write_text(page(lines))


def page(lines: list[str]) -> str:
    head, _, rest = str(__doc__).partition("\n\n")
    text = rest.partition("\n\n")[2]
    where = f"`python -m tests.bench.checkpoint --write` on {platform.machine()}, {cores()} cores, at a load of " \
            f"{os.getloadavg()[1]:.0f}"
    return f"# {head}\n\n{where}.\n\n{text}\n" + "\n".join(lines) + "\n" + NOTES


NOTES = """
## DeepSpeed's own writers, and why they are refused

What `checkpoint.writer` in a DeepSpeed config does in version 0.19.8 (`deepspeed/runtime/checkpoint_engine/`), as
tried here; what a failing writer does is read from its source:

- Neither engine can load what it saved: both call `torch.load` without `weights_only=False`, and the files hold more
  than weights (`UnpicklingError`).
- They need `CROSS_SIZE` and `CROSS_RANK`, which DeepSpeed's launcher alone sets: `KeyError` under torchrun, srun and
  mpirun.
- Below ZeRO stage 3 `initialize` fails (`'UniversalParallelInfo' object has no attribute 'dp_rank'`).
- `decoupled` hides a checkpoint behind one forward and backward pass: the next optimizer step waits until all is
  written, for five minutes at most. A writer that fails prints its reason and is gone; the training then says that it
  "died unexpectedly". The state goes through shared memory, of which a container has 64 MB unless it is told otherwise.
- `fast` needs libaio and O_DIRECT, DataStates (`datastates_ckpt`) is no package: neither was tried.

So a recipe's `async_checkpoints` plugs another engine into DeepSpeed (`salad_ds/train/saver.py`): it copies a rank's
share of the state to host memory (page-locked where it comes from a GPU; that has not run yet) and lets a thread write
it. The name comes last, as ever. Off by default: it takes as much host memory as the state, and where cores are scarce
writing slows the steps beside it.
"""


if __name__ == "__main__":
    main()
