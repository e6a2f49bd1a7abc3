"""What all ranks have said of themselves, compared: one line per check, the host named in each disagreement.

What most ranks say counts as right; of two opinions held by as many, that of the lower rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from salad_ds.cluster.network import is_loopback
from salad_ds.doctor import FAULT, NOTE, OK, Finding, gigabytes

MOST = 6
"""Hosts, keys or files that a line names."""
LITTLE_DISK, LITTLE_SHARED = 5e9, 1e9
"""Bytes. NCCL and the loader's processes share memory in /dev/shm."""
SAME_CODE = "install the same salad_ds on every host, or start from a directory that all of them share"


class Job:
    """``hosts``: of each rank; ``facts``: what each said."""

    def __init__(self, hosts: Mapping[int, str], facts: list[dict[str, Any]]) -> None:
        self.hosts, self.facts = hosts, facts
        self.ranks_of: dict[str, list[int]] = {}
        for rank in range(len(facts)):
            self.ranks_of.setdefault(hosts[rank], []).append(rank)
        self.leaders = {name: ranks[0] for name, ranks in self.ranks_of.items()}

    def of_hosts(self, *keys: str) -> dict[int, Any]:
        """A value that the first rank of each host has."""
        found = {}
        for rank in self.leaders.values():
            value: Any = self.facts[rank]
            for key in keys:
                value = value.get(key) if value is not None else None
            found[rank] = value
        return found

    def of_ranks(self, *keys: str) -> dict[int, Any]:
        found = {}
        for rank, fact in enumerate(self.facts):
            value: Any = fact
            for key in keys:
                value = value.get(key)
            found[rank] = value
        return found

    def where(self, ranks: list[int]) -> str:
        """The hosts of these ranks; the ranks too where a host has others."""
        words = []
        for host, all_of in self.ranks_of.items():
            mine = [rank for rank in all_of if rank in ranks]
            if mine and (len(mine) == len(all_of) or mine == all_of[:1]):
                words.append(host)
            elif mine:
                words.append(f"{host} (rank {', '.join(map(str, mine))})")
        return listed(words)


def listed(words: list[str]) -> str:
    return ", ".join(words[:MOST]) + (f" and {len(words) - MOST} more" if len(words) > MOST else "")


def odd_ones(values: Mapping[int, Any]) -> tuple[Any, dict[Any, list[int]]]:
    """(the value that counts as right, others with the ranks that have them)."""
    right = Counter(values.values()).most_common(1)[0][0]  # of equals the first one, which is the lowest rank's
    others: dict[Any, list[int]] = {}
    for rank, value in values.items():
        if value != right:
            others.setdefault(value, []).append(rank)
    return right, others


def compare(job: Job) -> Iterator[Finding]:
    """Every check that needs nothing but what was said."""
    for check in (ranks, code, versions, recipe, batches, variables, shards, store, models, gpus, network, disk):
        yield from check(job)


def ranks(job: Job) -> Iterator[Finding]:
    sizes, others = odd_ones(job.of_ranks("size"))
    shown = listed([f"{host} {span(of)}" for host, of in job.ranks_of.items()])
    if others:
        yield Finding(FAULT, "ranks", f"{words_of(job, others, sizes)} ranks", "start every host with the same --ranks "
                      "and --nodes")
        return
    counts = {host: len(of) for host, of in job.ranks_of.items()}
    uneven = len(set(counts.values())) > 1
    plural = "s" if len(job.facts) > 1 else ""
    yield Finding(NOTE if uneven else OK, "ranks", f"{len(job.facts)} rank{plural} on {len(counts)} "
                  f"host{'s' if len(counts) > 1 else ''}: {shown}",
                  "hosts with more ranks than others wait for them; give all as many" if uneven else "")


def span(of: list[int]) -> str:
    if len(of) > 1 and of == list(range(of[0], of[-1] + 1)):
        return f"{of[0]}-{of[-1]}"
    return ",".join(map(str, of))


def words_of(job: Job, others: Mapping[Any, list[int]], right: Any) -> str:
    """``node2 has B, the others A``."""
    return "; ".join(f"{job.where(on)} has {value or 'none'}" for value, on in others.items()) + \
        f"; the others {right or 'none'}"


def code(job: Job) -> Iterator[Finding]:
    right, others = odd_ones(job.of_ranks("code"))
    if not others:
        yield Finding(OK, "code", f"salad_ds {right} everywhere, {job.facts[0]['at']}")
        return
    files = job.of_hosts("files")
    reference: dict[str, Any] = next((files[rank] for rank in files if job.facts[rank]["code"] == right), {})
    for on in others.values():
        theirs = job.facts[on[0]].get("files") or {}
        differ = [name for name in sorted({*theirs, *reference}) if theirs.get(name) != reference.get(name)]
        yield Finding(FAULT, "code", f"{job.where(on)} has another salad_ds ({job.facts[on[0]]['at']})"
                      + (f": {listed(differ)}" if theirs and differ else ""), SAME_CODE)


def versions(job: Job) -> Iterator[Finding]:
    said = job.of_ranks("versions")
    wrong = []
    for name in said[0]:
        right, others = odd_ones({rank: value[name] for rank, value in said.items()})
        if others:
            wrong.append(f"{name}: {words_of(job, others, right)}")
    main = ("python", "torch", "deepspeed", "transformers", "CUDA", "NCCL")
    shown = ", ".join(f"{name} {said[0][name]}" for name in main if said[0][name] != "none")
    yield Finding(FAULT if wrong else OK, "versions", listed(wrong) if wrong else shown,
                  "pip install -c constraints.txt on those hosts, or one environment that all share" if wrong else "")


def recipe(job: Job) -> Iterator[Finding]:
    said = job.of_ranks("recipe")
    names = list(dict.fromkeys(name for value in said.values() for name in value))
    wrong = []
    for name in names:
        right, others = odd_ones({rank: value.get(name, "") for rank, value in said.items()})
        if others:
            wrong.append(f"{name}: {words_of(job, others, right)}")
    yield Finding(FAULT if wrong else OK, "recipe", listed(wrong) if wrong else f"{len(names)} settings, the same "
                  "everywhere", "give every host the same recipe and overrides" if wrong else "")


def batches(job: Job) -> Iterator[Finding]:
    """DeepSpeed configs, and whether the global batches can be divided over so many ranks."""
    for stage in job.facts[0]["deepspeed"]:
        right, others = odd_ones(job.of_ranks("deepspeed", stage))
        if right.startswith("!"):
            yield Finding(FAULT, "DeepSpeed", f"{stage}: {right[1:]}", "mend the recipe, or take other ranks")
        elif others:
            shown = {value.lstrip("!"): on for value, on in others.items()}
            yield Finding(FAULT, "DeepSpeed", f"{stage}: {words_of(job, shown, right)}",
                          "give every host the same ds_configs/")
        else:
            yield Finding(OK, "DeepSpeed", f"{stage}: config {right}, global batch fits {len(job.facts)} ranks")


def variables(job: Job) -> Iterator[Finding]:
    said = job.of_ranks("variables")
    wrong = []
    for name in sorted({name for value in said.values() for name in value}):
        right, others = odd_ones({rank: value.get(name, "") for rank, value in said.items()})
        if others:
            wrong.append(f"{name}: {words_of(job, others, right)}")
    shown = listed([f"{name}={value}" for name, value in said[0].items()]) or "none that matters"
    yield Finding(NOTE if wrong else OK, "environment", listed(wrong) if wrong else shown,
                  "launchers/README.md says which variables each launcher takes along" if wrong else "")


def shards(job: Job) -> Iterator[Finding]:
    for path in job.facts[0]["shards"]:
        yield present(job, "shards", path, job.of_hosts("shards", path), "salad-ds prepare, synthesize or select",
                      "the work directory must be on a file system that every host sees, or the shards copied to each")


def store(job: Job) -> Iterator[Finding]:
    said = job.of_hosts("store")
    if said[0] is not None:
        yield present(job, "teacher store", "", said, "salad-ds precompute",
                      "the store must be on a file system that every host sees, or copied to each")


def models(job: Job) -> Iterator[Finding]:
    for name in job.facts[0]["models"]:
        said = job.of_hosts("models", name)
        if not any(said.values()):
            yield Finding(NOTE, "model", f"{name} is on no host",
                          "each downloads it at its start: set HF_HOME to a directory that all share, and load it once")
        else:
            yield present(job, "model", name, said, "", "put it where every host sees it")


def present(job: Job, name: str, what: str, said: Mapping[int, Any], maker: str, mend: str) -> Finding:
    """About something that every host should see in the same state; "" where it is not there, "!" before a fault."""
    what = f"{what}: " if what else ""
    if not any(said.values()):
        return Finding(NOTE, name, f"{what}not there yet, on any host", f"{maker} first")
    faults = {value: [rank for rank in said if said[rank] == value] for value in said.values()
              if str(value).startswith("!")}
    if faults:
        shown = "; ".join(f"{job.where(on)}: {value[1:]}" for value, on in faults.items())
        return Finding(FAULT, name, what + shown, mend)
    right, others = odd_ones(said)
    if others:
        return Finding(FAULT, name, what + words_of(job, others, right), mend)
    return Finding(OK, name, f"{what}{right}")


def gpus(job: Job) -> Iterator[Finding]:
    said = job.of_ranks("device")
    if not any(said.values()):
        yield Finding(OK, "GPUs", "none: ranks compute on CPUs")
        return
    without = [rank for rank, value in said.items() if not value]
    if without:
        yield Finding(FAULT, "GPUs", f"{job.where(without)} has none that torch can use",
                      "nvidia-smi there; a torch with CUDA that suits its driver")
        return
    seen: dict[tuple[str, str], list[int]] = {}
    for rank, value in said.items():
        if value["id"]:
            seen.setdefault((job.hosts[rank], value["id"]), []).append(rank)
    for (host, _), shared in seen.items():
        if len(shared) > 1:
            yield Finding(FAULT, "GPUs", f"{host}: ranks {span(shared)} have one GPU together",
                          "as many ranks per host as GPUs; see CUDA_VISIBLE_DEVICES there")
    for key in ("GPU", "driver"):
        right, others = odd_ones({rank: value[key] for rank, value in said.items()})
        yield Finding(NOTE if others else OK, f"{key}s", words_of(job, others, right) if others else str(right),
                      "the slowest decides for all, the smallest what fits" if others else "")


def network(job: Job) -> Iterator[Finding]:
    said = job.of_hosts("network")
    shown = [f"{job.hosts[rank]} {at['interface'] or '?'} {at['address'] or 'no way to rank 0'}"
             for rank, at in said.items()]
    chosen = {rank: ", ".join(f"{label} {at[name]}" for name, label in (("gloo", "gloo"), ("nccl", "NCCL")) if at[name])
              for rank, at in said.items()}
    if any(chosen.values()):
        shown = [f"{text} ({chosen[rank]})" if chosen[rank] else text for text, rank in zip(shown, said, strict=True)]
    faults = []
    for rank, at in said.items():
        for name in ("gloo", "nccl"):
            for one in filter(None, at[name].split(",")):
                if not matches(name, one, at["interfaces"].split(",")):
                    faults.append(f"{job.hosts[rank]} has no interface {one} ({at['interfaces']})")
        if len(said) > 1 and not at["gloo"] and (not at["own"] or is_loopback(at["own"])):
            faults.append(f"{job.hosts[rank]} calls itself {at['own'] or 'nothing'}: gloo would listen there")
    yield Finding(FAULT if faults else OK, "interfaces", listed(faults or shown),
                  "name the interface that leads to the other hosts: --interface NAME" if faults else "")


def matches(library: str, wanted: str, there: list[str]) -> bool:
    """Whether a host has the interface: NCCL takes beginnings of names, =name for a whole one, ^ for all but."""
    if library == "gloo" or wanted.startswith("="):
        return wanted.lstrip("=") in there
    return wanted.startswith("^") or any(name.startswith(wanted.split(":")[0]) for name in there)


def disk(job: Job) -> Iterator[Finding]:
    said = job.of_hosts("disk")
    for key, name, least, mend in (
        ("work", "disk", LITTLE_DISK, "free some, or take another workdir"),
        ("shm", "shared memory", LITTLE_SHARED, "docker run --shm-size=16g; in Kubernetes an emptyDir in memory"),
    ):
        free = {rank: value[key] for rank, value in said.items() if key in value}
        if not free:
            continue
        little = [f"{job.hosts[rank]} has {gigabytes(value)}" for rank, value in free.items() if value < least]
        where = "in /dev/shm" if key == "shm" else "for workdir"
        least_of = min(free.values())
        shown = listed([f"{job.hosts[rank]} {gigabytes(value)}" for rank, value in free.items()]) if len(free) <= MOST \
            else f"at least {gigabytes(least_of)} on each host"
        yield Finding(NOTE if little else OK, name, f"{listed(little) if little else shown} free {where}",
                      mend if little else "")
