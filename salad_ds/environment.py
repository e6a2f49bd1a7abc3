"""The process environment: the cores there are, and what is set before torch and its friends are imported.

What the user has set is left alone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from pathlib import Path

PARENT = "SALAD_DS_PARENT"
"""Process id of the ``salad-ds run`` that launched this rank."""


VARIABLES = {
    "SALAD_DS_HOME": "where models and corpora that are fetched are kept; default: `~/.cache/salad_ds`",
    "SALAD_DS_TOKEN": "what visitors of `salad-ds serve` must show",
    "SALAD_DS_DISTILL": "what computes the distillation loss: `triton` or `torch`; default: the first where it can be "
                        "had (`salad-ds doctor` says)",
    "SALAD_DS_ONEDNN": "`0`: leave matrix products on the CPU to PyTorch, also where oneDNN is faster",
}  # fmt: skip
"""Environment variables that users may set."""


def prepare_environment() -> None:
    """How this process and its children should behave on a machine without an accelerator."""
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or Path("/dev/kfd").exists():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed says what it found, each time, unless it is told
    # OpenMP threads spin while they wait; with more processes than cores that cost a factor of up to 20 here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cores() -> int:
    """CPU cores that this process may use: on a shared node fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Of ``cores``, this rank's: the ranks that a launcher has started on this machine share them."""
    beside = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return max(cores() // max(int(beside), 1), 1)


def hush() -> None:
    """Silence third-party chatter that says nothing to a user: what remains on the screen should be worth reading."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",  # it warns after every fork; loaders work in threads here
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """Where ``PARENT`` names a process, end this one within a second of that one's end, even by SIGKILL.

    DeepSpeed's launcher does not: its ranks would train on, alone, beside the job that the user starts next.
    """
    parent = int(os.environ.get(PARENT, "0"))
    if not parent:
        return

    def watch() -> None:
        while Path(f"/proc/{parent}").exists():
            time.sleep(0.5)
        os._exit(1)

    if Path("/proc/self").exists():
        threading.Thread(target=watch, name="parent", daemon=True).start()
