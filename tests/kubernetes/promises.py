"""What every pod of the manifests promises: a table of checks, each of which says what is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from tests.kubernetes.overlays import Template

Problems = Iterator[str]
NO_RETRY, RETRY = (1, 2, 4, 70), (3, 137, 143)
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def not_root(template: Template) -> Problems:
    context = template.pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser") or not context.get("runAsGroup"):
        yield "may run as root"
    for container in template.containers:
        if {"runAsUser", "runAsNonRoot", "runAsGroup", "privileged"} & set(container.get("securityContext", {})):
            yield f"{container['name']} sets aside what the pod says of its user"


def filtered_calls(template: Template) -> Problems:
    profile = template.pod.get("securityContext", {}).get("seccompProfile", {})
    if profile.get("type") != "RuntimeDefault":
        yield "has no seccomp profile"


def no_privileges(template: Template) -> Problems:
    for container in template.containers:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} can gain privileges"


def read_only_root(template: Template) -> Problems:
    for container in template.containers:
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} can write its root file system"


def writable_where_needed(template: Template) -> Problems:
    for container in template.containers:
        environment = template.environment(container)
        homes = [environment.get(name, "") for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME") if name in environment]
        writable = [mount["mountPath"] for mount in container.get("volumeMounts", []) if _is_writable(template, mount)]
        if "HOME" not in environment:
            yield f"{container['name']} has no HOME"
        for path in ("/tmp", *homes):
            if not any(PurePosixPath(path).is_relative_to(mount) for mount in writable):
                yield f"{container['name']} cannot write {path}"


def no_token(template: Template) -> Problems:
    if template.pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of the Kubernetes API"
    tokens = {volume["name"] for volume in template.pod.get("volumes", []) if "serviceAccountToken" in str(volume)}
    for container in template.containers:
        if container["name"] != "autoscaler" and tokens & {m["name"] for m in container.get("volumeMounts", [])}:
            yield f"{container['name']} mounts a token of the Kubernetes API"


def bounded(template: Template) -> Problems:
    for container in template.containers:
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for name in {"cpu", "memory", "ephemeral-storage"} - set(resources.get(kind, {})):
                yield f"{container['name']} has no {name} in its {kind}"
    disk = sum(
        size(c.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0")) for c in template.containers
    )
    for volume in template.pod.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"the volume {volume['name']} has no limit"
        elif "emptyDir" in volume and volume["emptyDir"].get("medium") != "Memory":
            disk -= size(volume["emptyDir"]["sizeLimit"])
    if disk < 0:
        yield "may be evicted for what its volumes allow"


def shared_memory(template: Template) -> Problems:
    container = template.pod["containers"][0]
    gpus = int(container["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
    several = any(word.startswith(("--processes", "--nodes")) for word in template.command)
    if gpus < 2 and not several and not template.is_ray:
        return
    mounts = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    memory = template.volume(mounts[0]["name"]).get("emptyDir", {}) if mounts else {}
    if memory.get("medium") != "Memory":
        yield "has the container's own 64 MiB of /dev/shm"
    elif size(memory.get("sizeLimit", "0")) >= size(container["resources"]["limits"]["memory"]):
        yield "can fill its memory with /dev/shm"


def time_to_end(template: Template) -> Problems:
    needed = 120 if template.does_units else 30
    if template.pod.get("terminationGracePeriodSeconds", 0) < needed:
        yield f"has less than {needed} s to end"


def never_restarted_in_place(template: Template) -> Problems:
    if template.pod.get("restartPolicy") != "Never":
        yield "is restarted in place, where no failure policy looks at the exit code"


def secrets_by_reference(template: Template) -> Problems:
    for container in template.containers:
        for name, value in template.environment(container).items():
            if re.search(r"KEY|SECRET|PASSWORD|TOKEN", name) and value:
                yield f"{container['name']} has {name} in plain text"


def fixed_image(template: Template) -> Problems:
    for container in template.containers:
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        if tag in ("", "latest") or container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{container['name']} may run another image tomorrow"


def no_service_variables(template: Template) -> Problems:
    if template.pod.get("enableServiceLinks") is not False:
        yield "gets a variable for each Service, such as MASTER_PORT"


def threads_within_the_limit(template: Template) -> Problems:
    for container in template.containers:
        if not container.get("args"):
            continue
        cores = int(container["resources"]["limits"]["cpu"])
        ranks = int(container["resources"]["limits"].get("nvidia.com/gpu", 1))
        for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"):
            said = next((one for one in container.get("env", []) if one["name"] == name), {})
            limit = said.get("valueFrom", {}).get("resourceFieldRef", {}).get("resource") == "limits.cpu"
            threads = cores if limit else int(said.get("value", 2 * cores))
            if threads * ranks > cores:
                yield f"{container['name']} runs more threads than it has cores: {name}"


def exit_codes(template: Template) -> Problems:
    if template.job is None:
        return
    for code in NO_RETRY:
        if action(template.job, code) != "FailJob":
            yield f"exit code {code} is tried again"
    for code in RETRY:
        if action(template.job, code) != "Count":
            yield f"exit code {code} is not tried again within the limit"
    if action(template.job, 143, disrupted=True) != "Ignore":
        yield "a drained node counts as a failure"
    names = {container["name"] for container in template.containers}
    for rule in template.job.get("podFailurePolicy", {}).get("rules", []):
        if rule.get("onExitCodes", {}).get("containerName", next(iter(names))) not in names:
            yield "the failure policy is of a container that is not there"


def ends_at_last(template: Template) -> Problems:
    if template.job is None:
        return
    for name in ("activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if not template.job.get(name):
            yield f"has no {name}"
    if not 1 <= template.job.get("backoffLimitPerIndex", template.job.get("backoffLimit", 0)) <= 6:
        yield "has no limit of attempts, or none but the first"
    if template.job.get("podReplacementPolicy") != "Failed":
        yield "may run twice at once"


PROMISES: dict[str, Callable[[Template], Problems]] = {
    check.__name__: check
    for check in (
        not_root, filtered_calls, no_privileges, read_only_root, writable_where_needed, no_token, bounded,
        shared_memory, time_to_end, never_restarted_in_place, secrets_by_reference, fixed_image,
        no_service_variables, threads_within_the_limit, exit_codes, ends_at_last,
    )
}  # fmt: skip


def broken(template: Template) -> dict[str, list[str]]:
    """The promises that a pod template breaks, with what is wrong."""
    results = {name: list(check(template)) for name, check in PROMISES.items()}
    return {name: problems for name, problems in results.items() if problems}


def action(job: dict[str, Any], code: int, disrupted: bool = False) -> str:
    """What the failure policy of a Job does about a pod that ended with `code`: that of the first rule that fits."""
    for rule in job.get("podFailurePolicy", {}).get("rules", []):
        codes = rule.get("onExitCodes")
        if codes is not None and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
        if disrupted and any(one["type"] == "DisruptionTarget" for one in rule.get("onPodConditions", [])):
            return str(rule["action"])
    return "Count"


def size(quantity: str) -> float:
    """Bytes."""
    number, unit = re.fullmatch(r"([\d.]+)([KMG]i)?", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS.get(unit or "", 1)


def _is_writable(template: Template, mount: dict[str, Any]) -> bool:
    kinds = set(template.volume(mount["name"]))
    return not mount.get("readOnly") and bool(kinds & {"emptyDir", "persistentVolumeClaim"})
