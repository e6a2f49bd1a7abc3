"""``launchers/kubernetes.sh``'s other half: a manifest of this directory with a job's own values, as YAML."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

MEETING = {
    "jobset": ("{name}-workers-0-0.{name}", "$(JOB_COMPLETION_INDEX)"),
    "pytorchjob": ("$(MASTER_ADDR)", "$(RANK)"),
}
"""Kind: address of the first machine, number of a machine."""


class Plain(yaml.SafeDumper):
    """What two replicas have in common is written out twice: tools that edit manifests know no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(kind: str, name: str, image: str, claim: str, nodes: int, ranks: int, grace: int, words: list[str]) -> str:
    """``words``: arguments of torchrun.sh without those that say who meets where."""
    manifest = yaml.safe_load((Path(__file__).parent / f"{kind}.yaml").read_text())
    manifest["metadata"]["name"] = name
    if kind == "jobset":
        job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
        job["parallelism"] = job["completions"] = nodes
        pods = [job["template"]["spec"]]
    else:
        replicas = manifest["spec"]["pytorchReplicaSpecs"]
        replicas["Worker"]["replicas"] = nodes - 1
        pods = [replica["template"]["spec"] for replica in replicas.values()]
        if nodes == 1:
            del replicas["Worker"]
    address, number = MEETING[kind]
    for pod in pods:
        container = pod["containers"][0]
        container["image"] = image
        literal = [word.replace("$(", "$$(") for word in words]  # $(NAME) is a variable of the pod
        container["args"] = [*literal, "--nodes", str(nodes), "--ranks", str(ranks), "--master_addr",
                             address.format(name=name), "--node_rank", number]
        container["resources"]["limits"]["nvidia.com/gpu"] = str(ranks)
        pod["terminationGracePeriodSeconds"] = grace
        named(pod["volumes"], "runs")["persistentVolumeClaim"]["claimName"] = claim
    return yaml.dump(manifest, Dumper=Plain, sort_keys=False, width=120)


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=MEETING)
    for name in ("name", "image", "claim"):
        parser.add_argument(name)
    for name in ("nodes", "ranks", "grace"):
        parser.add_argument(name, type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    print(render(**vars(parser.parse_args())), end="")


if __name__ == "__main__":
    main()
