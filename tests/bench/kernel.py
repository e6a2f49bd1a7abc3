"""The distillation loss against others: time and peak memory, side by side in one run.

    python -m tests.bench.kernel [--device cpu|cuda] [--quick] [--write] [--threads T]

Time: forward and backward, the median of ``--repeats`` turns in which ours and the rival take turns in going first;
the ratio is the median of the turns' own ratios, with half the distance of its quartiles. Memory: the most that a step
takes beyond its inputs, gradients included; on CUDA as PyTorch's allocator counts it, on a CPU the rise of the resident
set's high-water mark (reset before the step, Linux only) in a process of its own that has taken one tiny step before.

``--write`` puts the table into docs/bench/kernel-<device>.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.bench.kernel_works import RIVALS, WORKS, Inputs, make, missing, ours, step

SIZES = {
    "cpu": [(256, 49152, 576), (1024, 49152, 576), (2048, 49152, 576), (256, 151936, 896)],
    "cuda": [(rows, *model) for model in ((151936, 2048), (151936, 3584), (49152, 576))
             for rows in (1024, 8192, 32768)],
}
QUICK = {"cpu": [(256, 49152, 576)], "cuda": [(1024, 49152, 576), (8192, 151936, 2048)]}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
PAGE = Path(__file__).parents[2] / "docs/bench"
HEAD = "| N | V | H | work | rival | ours ms | rival ms | rival / ours | ours MB | rival MB | rival / ours |"


def seconds(work: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def race(rival, given: Inputs, device: str, repeats: int) -> tuple[float, float, float, float]:
    """(our seconds, the rival's, median ratio, its spread)."""
    runners = (ours, rival)
    for runner in runners:
        step(runner, given)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            times[which].append(seconds(lambda which=which: step(runners[which], given), device))
    ratios = [theirs / own for own, theirs in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return statistics.median(times[0]), statistics.median(times[1]), middle, (high - low) / 2


def rates(size: tuple[int, int, int], device: str, repeats: int) -> tuple[float, float]:
    """Operations of the three products per second: by ``torch.mm`` alone, as eager PyTorch makes them, and in ours."""
    rows, vocabulary, width = size
    h, w, g = (torch.randn(shape, device=device, dtype=DTYPES[device])
               for shape in ((rows, width), (vocabulary, width), (rows, vocabulary)))

    def products() -> None:
        torch.mm(h, w.t(), out=g)
        torch.mm(g, w)
        torch.mm(g.t(), h)

    given = make("sparse", *size, device, DTYPES[device])
    works = (products, lambda: step(ours, given))
    for work in works:
        work()
    times = [[seconds(work, device) for work in works] for _ in range(repeats)]
    return tuple(6 * rows * vocabulary * width / statistics.median(column) for column in zip(*times, strict=True))


def peak(work: str, rival: str, size: tuple[int, int, int], device: str, threads: int) -> float | None:
    """Bytes beyond the inputs; None where it cannot be measured."""
    if device == "cuda":
        given = make(work, *size, device, DTYPES[device])
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(ours if rival == "ours" else RIVALS[work][rival], given)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    command = [sys.executable, "-m", "tests.bench.kernel", "--threads", str(threads), "--measure", work, rival]
    done = subprocess.run([*command, *map(str, size)], capture_output=True, text=True, timeout=1800)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def measure(work: str, rival: str, size: tuple[int, int, int]) -> None:
    """In a process of its own: print the rise of the high-water mark in bytes."""
    runner = ours if rival == "ours" else RIVALS[work][rival]
    given = make(work, *size, "cpu", torch.float32)
    # The first step of a compiled rival compiles: it needs one of the real size. Others need the code loaded only.
    step(runner, given if rival == "torch.compile" else make(work, 4, 64, 8, "cpu", torch.float32))
    given.hidden.grad = given.weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step(runner, given)
    print(resident("VmHWM") - before)


def resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def line(size, work: str, rival: str, device: str, options: argparse.Namespace, our_peaks: dict) -> str:
    cells = [*map(str, size), work, rival]
    reason = missing(rival, device)
    if not reason:
        given = make(work, *size, device, DTYPES[device])
        try:
            own, theirs, ratio, spread = race(RIVALS[work][rival], given, device, options.repeats)
        except torch.OutOfMemoryError:
            reason = "does not fit"
        except Exception as error:  # a rival that fails is a line of the table
            reason = f"fails: {type(error).__name__}"
        del given
    if reason:
        return "| " + " | ".join([*cells, "", reason, "", "", "", ""]) + " |"
    if (size, work) not in our_peaks:
        our_peaks[size, work] = peak(work, "ours", size, device, options.threads)
    mine, other = our_peaks[size, work], peak(work, rival, size, device, options.threads)
    cells += [f"{own * 1e3:.1f}", f"{theirs * 1e3:.1f}", f"**{ratio:.2f}** ± {spread:.2f}"]
    cells += ["not measured" if value is None else f"{value / 1e6:.0f}" for value in (mine, other)]
    cells += [f"{other / mine:.1f}" if mine and other else ""]
    return "| " + " | ".join(cells) + " |"


def machine(device: str, threads: int) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16"
    names = [text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines()
             if text.startswith("model name")] if Path("/proc/cpuinfo").is_file() else [platform.processor()]
    return f"{names[0]}, {threads} threads on {len(names)} cores, torch {torch.__version__}, float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=sorted(SIZES), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few sizes, three turns")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        work, rival, *size = options.measure
        measure(work, rival, tuple(map(int, size)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device")
    if options.quick:
        options.repeats = 3
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        print(text, flush=True)

    say(f"{machine(options.device, options.threads)}; {options.repeats} turns\n")
    say(f"{HEAD}\n|{' --- |' * (HEAD.count('|') - 1)}")
    sizes = (QUICK if options.quick else SIZES)[options.device]
    our_peaks: dict = {}
    for size in sizes:
        for work in options.works:
            for rival in RIVALS[work]:
                say(line(size, work, rival, options.device, options, our_peaks))
    say("\n| N | V | H | the three products by torch.mm | ours, work sparse, of that rate |\n|" + " --- |" * 5)
    for size in sizes:
        products, whole = rates(size, options.device, options.repeats)
        say(f"| {' | '.join(map(str, size))} | {products / 1e12:.3f} Tflop/s | {whole / products:.0%} |")
    if options.write:
        from salad_ds.files import atomic_path

        PAGE.mkdir(parents=True, exist_ok=True)
        with atomic_path(PAGE / f"kernel-{options.device}.md") as path:
            path.write_text(f"# The distillation loss on {options.device}\n\n`python -m tests.bench.kernel --write`\n\n"
                            + "\n".join(told) + f"\n\n{__doc__.split(chr(10) * 2)[2]}\n")


if __name__ == "__main__":
    main()
