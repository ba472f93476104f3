"""What the manifests say is what Kubernetes knows, and what their parts say of each other holds."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.kubernetes.overlays import FOLDER, OVERLAYS, Template, build, one, settings, templates

# The oldest that the manifests are for, and the newest that there are schemas of.
VERSIONS = ("1.33", "1.37")
RAY = "ray.io/v1"


def validate(document: dict[str, Any], version: str) -> None:
    _validate(json.dumps(document), version)


@functools.cache
def _validate(document: str, version: str) -> None:
    """What overlays share is validated once: each time the schemas are read from disk."""
    kubernetes_validate.validate(json.loads(document), version, strict=True)


def as_pod(template: Template) -> dict[str, Any]:
    metadata = {"name": "lifted", "labels": template.labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.pod}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_field_is_one_that_kubernetes_knows(overlay: str, version: str) -> None:
    for document in build(overlay):
        if document["apiVersion"] != RAY:
            validate(document, version)
    for template in templates(overlay):
        validate(as_pod(template), version)


def test_a_misspelt_field_of_a_ray_worker_is_found() -> None:
    worker = templates("ray")[-1]
    worker.pod["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        validate(as_pod(worker), VERSIONS[-1])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_overlay_holds_a_secret_or_a_namespace(overlay: str) -> None:
    for document in build(overlay):
        assert document["kind"] != "Secret"
        assert "namespace" not in document["metadata"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_finds_what_it_mounts_and_reads(overlay: str) -> None:
    documents = build(overlay)
    maps = set(settings(documents)) | {"kube-root-ca.crt"}
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    accounts = {document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"}
    for template in templates(overlay):
        text = yaml.safe_dump(template.pod)
        assert set(re.findall(r"config(?:Map|MapRef):\s+(?:items:.*?)?name: (\S+)", text, re.DOTALL)) <= maps
        assert set(re.findall(r"claimName: (\S+)", text)) <= claims
        # KubeRay makes the account of the head, with the autoscaler's role.
        assert template.pod.get("serviceAccountName") in (accounts if "head" not in template.where else {None})
        volumes = {volume["name"] for volume in template.pod["volumes"]}
        for container in template.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_file_opens_with_the_command_that_applies_it(overlay: str) -> None:
    for path in (FOLDER / "overlays" / overlay).glob("*.yaml"):
        if path.name not in ("references.yaml", "service.yaml"):
            comment = "".join(line for line in path.read_text().splitlines(True)[:8] if line.startswith("#"))
            assert f"kubectl apply -k jobs/kubernetes/overlays/{overlay}" in comment, path


def test_a_night_that_is_late_or_long_does_not_meet_the_next() -> None:
    cronjob = one(build("cronjob"), "CronJob")
    spec = cronjob["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["timeZone"] == "Etc/UTC"
    day = 24 * 3600
    assert spec["startingDeadlineSeconds"] + spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < day
    assert spec["successfulJobsHistoryLimit"] >= 1
    assert spec["failedJobsHistoryLimit"] >= 1
    # The controller appends eleven characters, and a Job's name has 63 at most.
    assert len(cronjob["metadata"]["name"]) <= 52


def test_the_pods_of_the_indexed_job_find_each_other() -> None:
    documents = build("indexed")
    job, service = one(documents, "Job"), one(documents, "Service")
    (template,) = templates("indexed")
    options = dict(word.removeprefix("--").split("=", 1) for word in template.command if "=" in word)
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(options["nodes"])
    assert template.pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= template.labels.items()
    # Kubernetes puts the variable in; the host name of a pod is that of the Job and its index.
    (name,) = (variable for variable in template.pod["containers"][0]["env"] if variable["name"] == "JOB_NAME")
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    port = service["spec"]["ports"][0]["port"]
    assert options["master"] == f"$(JOB_NAME)-0.{service['metadata']['name']}:{port}"
    assert len(f"{job['metadata']['name']}-{job['spec']['completions'] - 1}") <= 63


def test_the_pods_of_the_indexed_job_are_all_started_anew_or_all_given_up() -> None:
    job = one(build("indexed"), "Job")["spec"]
    assert "backoffLimit" not in job
    assert job["maxFailedIndexes"] == 0
    assert job["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]


@pytest.mark.parametrize("overlay", ["indexed", "ray"])
def test_pods_on_several_nodes_share_a_volume_that_allows_it(overlay: str) -> None:
    assert one(build(overlay), "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize(("overlay", "kind"), [("multi-gpu", "Job"), ("indexed", "Job"), ("ray", "RayJob")])
def test_the_name_of_a_single_night_says_which_one_it_is(overlay: str, kind: str) -> None:
    name = one(build(overlay), kind)["metadata"]["name"]
    for template in templates(overlay):
        for container in template.containers:
            if "RUN_DATE" in template.environment(container):
                assert name.endswith(template.environment(container)["RUN_DATE"])
    dated = [t for t in templates(overlay) if "RUN_DATE" in t.environment(t.pod["containers"][0])]
    assert [t.where for t in dated] == [t.where for t in templates(overlay) if t.does_units]
    # The names of a RayJob's cluster and pods are made from it.
    assert len(name) <= 47


def test_the_groups_of_the_ray_cluster_are_the_pools_of_the_job_file() -> None:
    documents = build("ray")
    (job_file,) = (data["nightly.yaml"] for data in settings(documents).values() if "nightly.yaml" in data)
    pools = {name: pool for name, pool in yaml.safe_load(job_file)["ray"].items() if name != "address"}
    groups = {
        group["groupName"]: group for group in one(documents, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    }
    assert list(groups) == list(pools)
    for name, pool in pools.items():
        limits = groups[name]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == pool["num_gpus"]
        assert int(limits["cpu"]) == pool["num_cpus"]
        assert groups[name]["minReplicas"] == groups[name]["replicas"] == 0
        assert groups[name]["maxReplicas"] == pool["max"]


def test_the_ray_cluster_grows_shrinks_and_goes() -> None:
    spec = one(build("ray"), "RayJob")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    # It cannot tell that another attempt is in vain.
    assert spec["backoffLimit"] == 1
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_ray_cluster_has_the_version_that_the_tests_pass_with() -> None:
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert f"ray=={one(build('ray'), 'RayJob')['spec']['rayClusterSpec']['rayVersion']}" in pins


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_image_has_the_version_of_the_package(overlay: str) -> None:
    version = importlib.metadata.version("batchroute")
    for template in templates(overlay):
        for container in template.containers:
            assert re.fullmatch(rf".*/batchroute:{re.escape(version)}(-\w+)?", container["image"])
