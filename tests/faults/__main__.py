"""The catalogue of faults, really inflicted: ``python -m tests.faults``.

    python -m tests.faults [--only NAME ...] [--again] [--minutes M] [--room DIR] [--list] [--write]

Every fault is inflicted on a real run of the tiny recipe (ZeRO-3 on two ranks, real files, real servers), and what is
left is compared with a run that was left alone. A result is a line of ROOM/results.jsonl, and what stands there is not
done again: a long run may be stopped at any time. Ends with 1 when anything was lost, or was not as promised. The whole
takes about half an hour on two cores; with ``--write`` the table becomes docs/faults.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from salad_ds.errors import SaladError
from salad_ds.files import sole_writer, write_text
from tests.faults.catalogue import CATALOGUE
from tests.faults.fault import Fault, NotAsPromised, Result, TooLate
from tests.faults.room import Room
from tests.faults.table import line, page, summary
from tests.train.launch import REPOSITORY

TRIES = 3
"""How often a fault is tried whose job was over before it could be hurt."""


def inflict(fault: Fault, room: Room) -> Result:
    """Do it once, or again where it came too late. Nothing that a fault does escapes, but for Ctrl-C."""
    if why := fault.lacking():
        return Result(fault.name, fault.what, "", skipped=why)
    began, broken = time.monotonic(), ""
    room.name = fault.name
    for _ in range(TRIES):
        try:
            told = fault.inflict(room)
            return Result(fault.name, fault.what, told.happened, told.lost, seconds=time.monotonic() - began)
        except TooLate as late:
            broken = f"the fault came too late, {TRIES} times: {late}"
        except (NotAsPromised, SaladError, OSError, AssertionError, KeyError, ValueError) as error:
            broken = f"{type(error).__name__}: {error}" if not isinstance(error, NotAsPromised) else str(error)
            break
    return Result(fault.name, fault.what, "", broken=broken, seconds=time.monotonic() - began)


def done_before(path: Path) -> dict[str, Result]:
    if not path.is_file():
        return {}
    return {row["fault"]: Result(**row) for row in map(json.loads, path.read_text().splitlines())}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--room", type=Path, default=Path("runs/faults"), help="directory for runs and results")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CATALOGUE, default=list(CATALOGUE))
    parser.add_argument("--again", action="store_true", help="also what has been done before")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after this time; call again later")
    parser.add_argument("--list", action="store_true", help="names and descriptions, and nothing else")
    parser.add_argument("--write", action="store_true", help="the table of all results becomes docs/faults.md")
    options = parser.parse_args()
    if options.list:
        for fault in CATALOGUE.values():
            print(f"{fault.name:<22} {fault.what}" + (f"  (not here: {why})" if (why := fault.lacking()) else ""))
        return 0
    with sole_writer(options.room) as alone:
        if not alone:
            print(f"another catalogue is running in {options.room}", file=sys.stderr)
            return 2
        room, path = Room(options.room), options.room / "results.jsonl"
        results, began = done_before(path), time.monotonic()
        for number, name in enumerate(options.only, 1):
            if options.again or name not in results:
                if time.monotonic() - began > 60 * options.minutes:
                    continue
                print(f"[{number}/{len(options.only)}] {CATALOGUE[name].what} ...", file=sys.stderr, flush=True)
                results[name] = inflict(CATALOGUE[name], room)
                write_text(path, "".join(json.dumps(results[known].as_json(), ensure_ascii=False) + "\n"
                                         for known in CATALOGUE if known in results))
                print(line(results[name]), flush=True)
    shown = [results[name] for name in CATALOGUE if name in results]
    print(f"\n{summary(shown)}")
    if options.write:
        write_text(REPOSITORY / "docs/faults.md", page(shown))
    return 0 if all(result.passed for result in shown) else 1


if __name__ == "__main__":
    sys.exit(main())
