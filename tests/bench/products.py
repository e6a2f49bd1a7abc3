"""What oneDNN's matrix products save on this CPU: whole models with PyTorch's own and with oneDNN's, in turns.

    python -m tests.bench.products [--rounds 3] [--threads 1]

Each turn is a process of its own, because the way of the products is one of a process. Seconds of CPU time, the median
of the rounds; `ratio`: PyTorch's own against oneDNN's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from salad_ds import onednn


def work() -> dict[str, Callable[[], object]]:
    from transformers import AutoModelForCausalLM

    from salad_ds.assets import resolve
    from salad_ds.config import EncoderConfig
    from salad_ds.model.build import build_encoder

    onednn.use()
    llm = AutoModelForCausalLM.from_pretrained(resolve("packaged:smollm2-135m"), dtype=torch.float32)
    encoder = build_encoder(EncoderConfig(kind="whisper", name="packaged:whisper-base"))
    tokens, sound = torch.arange(512)[None] + 1000, torch.randn(1, 160_000)
    several = {width: (torch.randn(2048, width), torch.randn(4 * width, width)) for width in (192, 576)}

    def multiply(left: torch.Tensor, right: torch.Tensor) -> None:
        for _ in range(50):
            torch.mm(left, right.t())

    def read() -> object:
        with torch.no_grad():
            return llm(tokens, use_cache=False, logits_to_keep=1)

    def train() -> None:
        llm.model(tokens, use_cache=False).last_hidden_state.square().mean().backward()
        llm.zero_grad()

    def hear() -> object:
        with torch.no_grad():
            return encoder(sound, torch.tensor([sound.shape[1]]))

    return {
        **{f"2,048 × {width} by {width} × {4 * width}, 50 times": partial(multiply, *pair)
           for width, pair in several.items()},
        "SmolLM2-135M reads 512 tokens": read,
        "and learns from them (without its head)": train,
        "Whisper base hears 10 s": hear,
    }  # fmt: skip


def measured() -> dict[str, float]:
    """CPU seconds of each, the faster of two after one that does not count."""

    def once(action: Callable[[], object]) -> float:
        began = time.process_time()
        action()
        return time.process_time() - began

    found = {}
    for name, action in work().items():
        action()
        found[name] = min(once(action) for _ in range(2))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(measured()))
        return
    if not onednn.is_faster():
        sys.exit("PyTorch's own products are used on this CPU: there is nothing to compare")
    turns: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for _ in range(arguments.rounds):
        for way, found in turns.items():
            done = subprocess.run([sys.executable, "-m", "tests.bench.products", "--once",
                                   "--threads", str(arguments.threads)], check=True, capture_output=True, text=True,
                                  env={**os.environ, onednn.VARIABLE: way})  # fmt: skip
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print("| | PyTorch's own | oneDNN | ratio |\n|---|---|---|---|")
    for name in turns["0"][0]:
        own, other = (statistics.median(one[name] for one in turns[way]) for way in ("0", "1"))
        print(f"| {name} | {own:.3f} s | {other:.3f} s | {own / other:.2f}× |")


if __name__ == "__main__":
    main()
