"""``salad-ds doctor --cluster`` on two hosts that disagree: every fault in one table, with the host's name."""

from __future__ import annotations

import sys

import pytest

from tests.train.launch import REPOSITORY

pytestmark = [pytest.mark.multinode, pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(900)]
PORTS = ("ipproto", "tcp", "dport", "30000-65534")


def test_every_disagreement_is_named(lab, recipe, work, tmp_path):
    """The second host has another recipe, its own disk where the work directory should be, another variable, and sends
    nothing to ports above 30000, neither a connection nor its answer to one."""
    first, second = lab.names
    doctor = [sys.executable, "-m", "salad_ds", "doctor", "--cluster", recipe, f"workdir={work}", "--patience", 120]
    place = ["env", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=1", "LOCAL_RANK=0", f"MASTER_ADDR={first}", "MASTER_PORT=29517"]
    lab.run(second, "mount", "-t", "tmpfs", "tmpfs", work)
    lab.run(second, "ip", "rule", "add", *PORTS, "prohibit")
    try:
        jobs = [lab.begin(first, *place, "RANK=0", *doctor, log=tmp_path / "first", cwd=REPOSITORY),
                lab.begin(second, *place, "RANK=1", "HF_HOME=/elsewhere", *doctor, "stages.stage1.steps=7",
                          log=tmp_path / "second", cwd=REPOSITORY)]  # fmt: skip
        codes = [job.wait(timeout=600) for job in jobs]
    finally:
        lab.run(second, "ip", "rule", "del", *PORTS, "prohibit")
        lab.run(second, "umount", work)
    table = (tmp_path / "first").read_text()
    assert codes == [1, 1], table + (tmp_path / "second").read_text()
    lines = dict.fromkeys(line[:20].strip() for line in table.splitlines() if line.startswith(("ok", "!!", "--")))
    assert {"ok  ranks", "ok  versions", "!!  recipe", "--  environment", "!!  shards", "!!  teacher store",
            "!!  work directory", "!!  connections"} <= set(lines), table  # fmt: skip
    for told in (f"stages.stage1.steps: {second} has 7; the others 12", f"HF_HOME: {second} has /elsewhere",
                 f"{second} has none; the others", f"{second} does not see what rank 0 wrote",
                 f"{first} → {second}: no answer, {second} → {first}: permission denied",
                 f"{first} eth0 10.77.0.11, {second} eth0 10.77.0.12"):  # fmt: skip
        assert told in table, f"{told!r} not in\n{table}"
    assert "all-reduce" not in table, "where hosts do not reach each other, a process group would wait"
    assert table.count("mend:") == table.count("!!  ") + table.count("--  ")
    assert not list(work.glob(".preflight-*"))
