"""Every fault that is inflicted, in the order of the table."""

from __future__ import annotations

from tests.faults.catalogue import checkpoints, data, hosts, numbers, ranks, stations, teacher, tracking
from tests.faults.fault import Fault

CATALOGUE: dict[str, Fault] = {
    fault.name: fault
    for module in (ranks, numbers, checkpoints, data, teacher, tracking, stations, hosts)
    for fault in module.FAULTS
}
