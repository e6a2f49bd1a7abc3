"""``salad-ds doctor``: what this machine can do for salad_ds, what it lacks, and how to mend each lack.

Quick (a few seconds) and without side effects: nothing is installed, compiled or prepared, heavy packages are looked up
rather than imported, and a check that fails in an unforeseen way becomes a line of the table, not a traceback.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from salad_ds.environment import cores

OK, NOTE, FAULT = "ok", "--", "!!"
"""Works; absent but only some uses need it; needed and missing."""


@dataclass(frozen=True)
class Finding:
    """One line of the table. ``state``: OK, NOTE or FAULT; ``mend``: what to do, for the latter two."""

    state: str
    name: str
    found: str
    mend: str = ""


def run(stream: TextIO = sys.stdout) -> bool:
    """Print the table to ``stream``; False when something needed is missing."""
    findings: list[Finding] = []
    for check in CHECKS:
        for finding in guarded(check):
            findings.append(finding)
            stream.write(line(finding))
            stream.flush()
    faults = sum(finding.state == FAULT for finding in findings)
    notes = sum(finding.state == NOTE for finding in findings)
    optional = f", {notes} optional ({NOTE})" if notes else ""
    stream.write((f"\n{faults} to mend ({FAULT})" if faults else "\nnothing to mend") + optional + "\n")
    return faults == 0


def line(finding: Finding) -> str:
    text = f"{finding.state}  {finding.name:<15} {finding.found}\n"
    return text + (f"{'':<20}mend: {finding.mend}\n" if finding.mend else "")


def guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; a check that breaks is a finding itself."""
    try:
        yield from check()
    except Exception as error:  # whatever a damaged set-up raises: the other checks are wanted all the same
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        yield Finding(FAULT, check.__name__, f"cannot be examined: {reason}", "make setup")


def version(distribution: str) -> str | None:
    """The installed version, without importing anything; None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def program(name: str) -> str | None:
    """Where a program lies: on the PATH, or beside this Python."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count < 99.5e9 else f"{count / 1e9:.0f} GB"


def python() -> Iterator[Finding]:
    found = f"{platform.python_version()}, {sys.executable}"
    old = sys.version_info < (3, 11)
    yield Finding(FAULT if old else OK, "python", found, "use Python 3.11 or newer" if old else "")


def machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    little = memory < 8e9
    yield Finding(NOTE if little else OK, "machine", f"{platform.system()} {platform.machine()}, {cores()} cores, "
                  f"{gigabytes(memory)} of memory", "the demo wants 8 GB of memory" if little else "")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < 1e9:
        yield Finding(NOTE, "shared memory", f"{gigabytes(shutil.disk_usage(shared).total)} in /dev/shm",
                      "NCCL between processes needs more: docker run --shm-size=8g")


def disk() -> Iterator[Finding]:
    from salad_ds.assets.cache import home

    for name, path in (("disk: here", Path.cwd()), ("disk: cache", home())):
        at = next(parent for parent in (path, *path.parents) if parent.exists())
        free, writable = shutil.disk_usage(at).free, os.access(at, os.W_OK)
        short = free < 5e9
        mend = ("allow writing there" if not writable else "the demo with its models wants 5 GB" if short else "")
        if mend and name == "disk: cache":
            mend += ", or set SALAD_DS_HOME to another directory"
        found = f"{gigabytes(free)} free{'' if writable else ', not writable'}, {path}"
        yield Finding(NOTE if mend else OK, name, found, mend)


def packages() -> Iterator[Finding]:
    """Every requirement of salad_ds against what is installed."""
    from packaging.requirements import Requirement

    if version("salad_ds") is None:
        yield Finding(FAULT, "salad_ds", "runs from its source, but is not installed", "make setup")
        return
    wrong, count = [], 0
    for text in metadata.requires("salad_ds") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            count += 1
            have = version(requirement.name)
            if have is None or not requirement.specifier.contains(have, prereleases=True):
                wrong.append(f"{requirement.name}{requirement.specifier} ({have or 'not installed'})")
    fine = f"all {count} requirements of salad_ds {version('salad_ds')}"
    yield Finding(FAULT if wrong else OK, "packages", "wrong: " + ", ".join(wrong) if wrong else fine,
                  "make setup, or pip install -c constraints.txt -e ." if wrong else "")


def accelerator() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        shown = ", ".join(f"{card.name} {gigabytes(card.total_memory)}" for card in cards[:8])
        yield Finding(OK, "torch", f"{torch.__version__}, {len(cards)} × GPU: {shown}")
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        yield Finding(OK if fast else NOTE, "bfloat16", "native" if fast else "not native to this GPU",
                      "" if fast else "use fp16 or fp32 in the DeepSpeed config")
        return
    idle = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    yield Finding(FAULT if idle else OK, "torch", f"{torch.__version__}, CPU, {torch.get_num_threads()} threads"
                  + (": the NVIDIA GPU of this machine is not used" if idle else ""),
                  "install a torch with CUDA that suits the driver" if idle else "")
    ratio = bf16_cost()
    # Old CPUs emulate it, 20-100 times slower; that is why recipes take float32 on every CPU.
    yield Finding(OK if ratio < 1 else NOTE, "bfloat16", f"matmuls take {ratio:.1f} times as long as in float32",
                  "" if ratio < 1 else "none needed: recipes use float32 on a CPU")


def bf16_cost(size: int = 256, repeats: int = 3) -> float:
    """Time of bf16 matmuls on the CPU as a multiple of fp32's, each the best of a few.

    In the layouts of forward and of backward, which differ in speed.
    """
    import torch

    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size).to(dtype)
        times = []
        for _ in range(repeats + 1):  # the first one sets up
            started = time.perf_counter()
            a @ a, a.T @ a, a @ a.T
            times.append(time.perf_counter() - started)
        best[dtype] = min(times[1:])
    return best[torch.bfloat16] / best[torch.float32]


def triton() -> Iterator[Finding]:
    have = version("triton")
    yield Finding(OK if have else NOTE, "triton", have or "not installed",
                  "" if have else "only GPUs use it; it comes with a torch that has CUDA")


def distillation() -> Iterator[Finding]:
    """Which code computes the distillation loss here."""
    import torch

    from salad_ds import onednn
    from salad_ds.distill import backend

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        name, reason = backend.choose(device)
    except ValueError as error:
        yield Finding(FAULT, "distillation", str(error), f"unset {backend.VARIABLE}")
        return
    faster = device.type == "cpu" and onednn.is_faster()
    yield Finding(OK, "distillation", f"backend {name}: {reason}" + ("; matrix products by oneDNN" if faster else ""))


def compilers() -> Iterator[Finding]:
    """DeepSpeed compiles its operators (CPU Adam for offload, fused GPU optimisers) at their first use."""
    what = "DeepSpeed's own optimisers are compiled at their first use"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    yield Finding(OK if compiler else NOTE, "C++ compiler", compiler or "none",
                  "" if compiler else f"{what}: install g++ (Debian: apt-get install g++)")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        yield Finding(NOTE, "Python.h", "not installed", f"{what}: install Python's headers (Debian: python3-dev)")
    ninja = program("ninja")
    yield Finding(OK if ninja else NOTE, "ninja", ninja or "none", "" if ninja else f"{what}: pip install ninja")
    if version("torch") and Path("/dev/nvidia0").exists() and not shutil.which("nvcc"):
        yield Finding(NOTE, "nvcc", "none", f"{what}: for those on the GPU install the CUDA toolkit of torch's version")


def deepspeed() -> Iterator[Finding]:
    have, launcher = version("deepspeed"), program("deepspeed")
    yield Finding(OK if have and launcher else FAULT, "deepspeed",
                  f"{have}, launcher {launcher or 'missing'}" if have else "not installed",
                  "" if have and launcher else "make setup, or pip install deepspeed")
    there = [name for name in ("pdsh", "srun", "mpirun") if shutil.which(name)]
    yield Finding(OK if there else NOTE, "several hosts", ", ".join(there) if there else "no pdsh, srun or mpirun",
                  "" if there else "only for training on several machines: install pdsh (and ssh), SLURM or MPI")


def torchaudio() -> Iterator[Finding]:
    from salad_ds.mend_torchaudio import inspect

    state = inspect()
    if state.kind == "works":
        yield Finding(OK, "torchaudio", f"{version('torchaudio')}, with its extension, forced_align "
                      + ("included" if state.align else "not included"))
    elif state.kind == "plain":
        yield Finding(OK, "torchaudio", f"{version('torchaudio')}, without its compiled part, which nothing here needs")
    else:
        yield Finding(FAULT, "torchaudio", state.detail, "python -m salad_ds.mend_torchaudio" if state.kind == "cuda"
                      else "pip install torchaudio, of the same build as torch")


def sound() -> Iterator[Finding]:
    import soundfile

    formats = soundfile.available_formats()
    subtypes = soundfile.available_subtypes("OGG") if "OGG" in formats else {}
    lacks = [name for name, there in (("FLAC", "FLAC" in formats), ("MP3", "MP3" in formats),
                                      ("Opus", "OPUS" in subtypes)) if not there]
    yield Finding(NOTE if lacks else OK, "soundfile", f"{soundfile.__version__}, {soundfile.__libsndfile_version__}"
                  + (f", without {', '.join(lacks)}" if lacks else ", WAV FLAC MP3 Opus"),
                  "pip install -U soundfile (its wheel brings libsndfile 1.2)" if lacks else "")
    have = version("torchcodec")
    yield Finding(OK, "torchcodec", have or "not installed, not needed: soundfile decodes")


def tracking() -> Iterator[Finding]:
    have = version("mlflow")
    yield Finding(OK if have else FAULT, "mlflow", have or "not installed", "" if have else "pip install mlflow")


def assets() -> Iterator[Finding]:
    """The packaged models and corpora: prepared, to be had, or not."""
    from salad_ds.assets.cache import directory_of, is_prepared, size_of
    from salad_ds.assets.catalogue import ASSETS

    for asset in ASSETS.values():
        name = asset.name
        if is_prepared(asset):
            yield Finding(OK, name, f"prepared, {size_of(directory_of(asset)) / 1e6:.0f} MB")
        elif missing := [what for what in asset.needs if not have(what)]:
            yield Finding(NOTE, name, f"not prepared, missing: {', '.join(missing)}",
                          {"npm": "install npm; see salad_ds/assets/npm.py for the way by hand",
                           "apt-get": "needs a Debian-like system; see salad_ds/assets/debian.py for the way by hand",
                           "dpkg-deb": "install dpkg (Fedora and Homebrew have it too)",
                           }.get(missing[0], "pip install --no-deps -r salad_ds/assets/requirements.txt"))
        else:
            yield Finding(OK, name, f"prepared at its first use ({asset.megabytes} MB), or now: "
                          f"python -m salad_ds.assets {name}")


def have(what: str) -> bool:
    """Whether a Python distribution or a program of that name is there."""
    return version(what) is not None or shutil.which(what) is not None


CHECKS = (python, machine, disk, packages, accelerator, triton, distillation, compilers, deepspeed, torchaudio, sound,
          tracking, assets)
