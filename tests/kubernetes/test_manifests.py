"""The Kubernetes manifests, as they lie there and as launchers/kubernetes.sh fills them in, against their schemas.

JobSet and the pods of both: the models that Kubeflow generates from the OpenAPI schemas of JobSet and of Kubernetes
(kubeflow-trainer-api). PyTorchJob: those of the training operator (kubeflow-training). A key that a schema does not
know is an error here, as it is of ``kubectl create``.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow.training import ApiClient
from kubeflow_trainer_api.models import IoK8sApiCoreV1PodTemplateSpec as PodTemplate
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet as JobSet
from pydantic import ValidationError

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = REPOSITORY / "launchers/kubernetes.sh"
RECIPE = "salad_ds/recipes/salad-3b.yaml"
KINDS = ["jobset", "pytorchjob"]
QUANTITY = re.compile(r"\d+(\.\d+)?([KMGTPE]i?|m|k)?")
STOPPED = 85


def shown(*words: object, kind: str) -> subprocess.CompletedProcess[str]:
    own = ["--image", "registry/salad:2", "--claim", "team-runs", "--kind", kind]
    command = [str(LAUNCHER), RECIPE, *own, *map(str, words)]
    binaries = Path(sys.executable).parent
    variables = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "VIRTUAL_ENV": str(binaries.parent)}
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)


def filled_in(*words: object, kind: str) -> dict[str, Any]:
    done = shown("--stage", "stage1", *words, "--dry-run", kind=kind)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def by_hand(kind: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / f"launchers/kubernetes/{kind}.yaml").read_text())


def templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    if manifest["kind"] == "JobSet":
        return [job["template"]["spec"]["template"] for job in spec["replicatedJobs"]]
    return [replica["template"] for replica in spec["pytorchReplicaSpecs"].values()]


def without_quantities(value: Any) -> Any:
    """``8`` and ``64Gi``: checked here, as the generated models have no type for them."""
    if isinstance(value, dict):
        for name in ("limits", "requests"):
            for amount in value.get(name, {}).values():
                assert QUANTITY.fullmatch(amount), amount
        assert QUANTITY.fullmatch(value.get("sizeLimit", "1"))
        return {key: without_quantities(inner) for key, inner in value.items()
                if key not in ("limits", "requests", "sizeLimit")}  # fmt: skip
    return [without_quantities(inner) for inner in value] if isinstance(value, list) else value


class Answer:
    """What ``ApiClient.deserialize`` takes for a server's."""

    def __init__(self, value: Any) -> None:
        self.data = json.dumps(value)


def validate(manifest: dict[str, Any]) -> None:
    """Raises ValueError."""
    for template in templates(manifest):
        PodTemplate.model_validate(without_quantities(template), extra="forbid")
    if manifest["kind"] == "JobSet":
        JobSet.model_validate(without_quantities(manifest), extra="forbid")
        return
    client = ApiClient()
    known = client.sanitize_for_serialization(client.deserialize(Answer(manifest), "KubeflowOrgV1PyTorchJob"))
    if known != manifest:
        raise ValueError("there is something that PyTorchJob does not know")


@pytest.mark.parametrize("kind", KINDS)
def test_manifests_are_valid(kind):
    manifests = [by_hand(kind), filled_in("--nodes", 4, "--restarts", 3, "stages.stage1.steps=20", kind=kind)]
    for manifest in manifests:
        validate(manifest)
    one, many = (json.dumps(manifest, sort_keys=True) for manifest in manifests)
    assert one != many
    assert (manifests[0]["apiVersion"], manifests[0]["kind"]) == {
        "jobset": ("jobset.x-k8s.io/v1alpha2", "JobSet"), "pytorchjob": ("kubeflow.org/v1", "PyTorchJob")
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_not_valid(kind):
    """The validation can fail: a misspelt key of the job's or the pod's, a number for a text, a missing key."""

    def broken(change) -> dict[str, Any]:
        manifest = copy.deepcopy(by_hand(kind))
        change(manifest, templates(manifest)[0]["spec"])
        return manifest

    def misspelt_in_the_job(manifest, pod):
        manifest["spec"]["failurePolcy"] = {"maxRestarts": 1}

    def misspelt_in_the_pod(manifest, pod):
        pod["terminationGracePeriod"] = 3

    def a_number(manifest, pod):
        pod["containers"][0]["args"][5] = 2

    def missing(manifest, pod):
        del pod["containers"][0]["name"]

    for change in (misspelt_in_the_job, misspelt_in_the_pod, a_number, missing):
        with pytest.raises((ValidationError, ValueError)):
            validate(broken(change))


@pytest.mark.parametrize("kind", KINDS)
def test_pods_start_torchrun_with_the_same_arguments(kind):
    words = [RECIPE, "--stage", "stage1", "--restarts", "1", "--interface", "eth0", "a.b=$(X)"]
    manifest = filled_in("--nodes", 4, "--ranks", 2, "--name", "three", *words[3:], kind=kind)
    for template in templates(manifest):
        (container,) = template["spec"]["containers"]
        assert container["command"] == ["launchers/torchrun.sh"] and container["image"] == "registry/salad:2"
        address, number = {"jobset": ("three-workers-0-0.three", "$(JOB_COMPLETION_INDEX)"),
                           "pytorchjob": ("$(MASTER_ADDR)", "$(RANK)")}[kind]  # fmt: skip
        assert container["args"] == [*words[:-1], "a.b=$$(X)", "--nodes", "4", "--ranks", "2", "--master_addr", address,
                                     "--node_rank", number]  # fmt: skip
        inside = [re.sub(r"\$\(.*\)", "1", word) for word in container["args"] if word != "a.b=$$(X)"]
        done = subprocess.run([str(REPOSITORY / "launchers/torchrun.sh"), *inside, "--dry-run"], cwd=REPOSITORY,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0 and "--nnodes 4 --nproc-per-node 2" in done.stdout, done.stderr
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    if kind == "jobset":
        job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    else:
        replicas = manifest["spec"]["pytorchReplicaSpecs"]
        assert (replicas["Master"]["replicas"], replicas["Worker"]["replicas"]) == (1, 3)
        assert all(template["spec"]["containers"][0]["name"] == "pytorch" for template in templates(manifest))
        assert "Worker" not in filled_in(kind=kind)["spec"]["pytorchReplicaSpecs"], "one machine"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_is_told_to_stop_has_time_and_comes_again(kind):
    manifest = filled_in("--grace", 600, kind=kind)
    for template in templates(manifest):
        pod = template["spec"]
        variables = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        assert pod["terminationGracePeriodSeconds"] == 600
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[next(name for name, at in mounts.items() if at == "/dev/shm")]["emptyDir"]["medium"] == "Memory"
        assert volumes["runs"]["persistentVolumeClaim"] == {"claimName": "team-runs"}
        assert variables["HF_HOME"].startswith(mounts["runs"])
    if kind == "pytorchjob":  # under ExitCode the operator takes what is below 128 for final
        replicas = manifest["spec"]["pytorchReplicaSpecs"].values()
        assert {replica["restartPolicy"] for replica in replicas} == {"OnFailure"}
        return
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    first, second = job["podFailurePolicy"]["rules"]
    told = {"containerName": "salad", "operator": "In", "values": [STOPPED]}
    assert first == {"action": "Ignore", "onExitCodes": told}
    assert second == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy is refused with another"
    assert job["template"]["spec"]["containers"][0]["name"] == "salad"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kind", "deployment"], "--kind is 'deployment'"),
        (["--name", "Salad_3B"], "--name is 'Salad_3B'"),
        (["--name", "x" * 41], "--name is 'xxx"),
        (["--claim", ""], "no volume claim"),
        (["--grace", "soon"], "--grace is 'soon'"),
        (["--hostfile", "x"], "no option --hostfile"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words, told):
    done = shown("--stage", "stage1", *words, "--dry-run", kind="jobset")
    assert done.returncode == 2 and told in done.stderr and "mend:" in done.stderr and not done.stdout
