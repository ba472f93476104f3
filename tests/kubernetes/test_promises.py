"""Every pod keeps every promise, and each check fails on a pod that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kubernetes.overlays import OVERLAYS, Template, templates
from tests.kubernetes.promises import PROMISES, action, broken

Mutation = Callable[[Template], Any]


def template_of(overlay: str, place: str) -> Template:
    (match,) = (template for template in templates(overlay) if template.where.endswith(place))
    return match


def first(template: Template) -> dict[str, Any]:
    container = template.pod["containers"][0]
    assert isinstance(container, dict)
    return container


def job_of(template: Template) -> dict[str, Any]:
    assert template.job is not None
    return template.job


def without_mount(path: str) -> Mutation:
    def remove(template: Template) -> None:
        first(template)["volumeMounts"] = [m for m in first(template)["volumeMounts"] if m["mountPath"] != path]

    return remove


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_every_promise(overlay: str) -> None:
    pods = templates(overlay)
    assert pods, "an overlay without pods"
    assert {template.where: broken(template) for template in pods} == {template.where: {} for template in pods}


MUTATIONS: list[tuple[str, str, str, Mutation]] = [
    ("not_root", "cronjob", "jobTemplate", lambda t: t.pod.pop("securityContext")),
    ("not_root", "multi-gpu", "template", lambda t: t.pod["securityContext"].update(runAsUser=0)),
    ("not_root", "ray", "head", lambda t: first(t)["securityContext"].update(runAsUser=0)),
    ("filtered_calls", "indexed", "template", lambda t: t.pod["securityContext"].pop("seccompProfile")),
    ("no_privileges", "ray", "workers small", lambda t: first(t)["securityContext"].pop("capabilities")),
    ("no_privileges", "ray", "head", lambda t: t.containers[1].pop("securityContext")),
    ("no_privileges", "shell", "itself", lambda t: first(t)["securityContext"].update(allowPrivilegeEscalation=True)),
    ("read_only_root", "cronjob", "jobTemplate", lambda t: first(t)["securityContext"].pop("readOnlyRootFilesystem")),
    ("writable_where_needed", "cronjob", "jobTemplate", without_mount("/tmp")),
    ("writable_where_needed", "ray", "workers large", without_mount("/cache")),
    ("writable_where_needed", "ray", "submitter", lambda t: first(t).pop("env")),
    ("writable_where_needed", "indexed", "template", lambda t: first(t)["volumeMounts"][1].update(readOnly=True)),
    ("no_token", "multi-gpu", "template", lambda t: t.pod.pop("automountServiceAccountToken")),
    ("no_token", "ray", "head", lambda t: first(t)["volumeMounts"].append(t.containers[1]["volumeMounts"][1])),
    ("bounded", "cronjob", "jobTemplate", lambda t: first(t)["resources"]["limits"].pop("ephemeral-storage")),
    ("bounded", "ray", "head", lambda t: t.containers[1].pop("resources")),
    ("bounded", "indexed", "template", lambda t: t.volume("tmp").update(emptyDir={})),
    ("bounded", "shell", "itself", lambda t: t.volume("tmp").update(emptyDir={"sizeLimit": "3Gi"})),
    ("shared_memory", "multi-gpu", "template", without_mount("/dev/shm")),
    ("shared_memory", "indexed", "template", lambda t: t.volume("shm")["emptyDir"].pop("medium")),
    ("shared_memory", "ray", "workers router", lambda t: t.volume("shm")["emptyDir"].update(sizeLimit="64Gi")),
    ("time_to_end", "cronjob", "jobTemplate", lambda t: t.pod.pop("terminationGracePeriodSeconds")),
    ("never_restarted_in_place", "multi-gpu", "template", lambda t: t.pod.update(restartPolicy="OnFailure")),
    ("secrets_by_reference", "ray", "head", lambda t: first(t)["env"].append({"name": "HF_TOKEN", "value": "hf_x"})),
    ("fixed_image", "ray", "workers small", lambda t: first(t).update(image="registry.example.com:5000/batchroute")),
    ("fixed_image", "cronjob", "jobTemplate", lambda t: first(t).update(image="batchroute:latest")),
    ("no_service_variables", "indexed", "template", lambda t: t.pod.pop("enableServiceLinks")),
    ("threads_within_the_limit", "multi-gpu", "template", lambda t: first(t)["env"][1].update(value="64")),
    ("threads_within_the_limit", "cronjob", "jobTemplate", lambda t: first(t)["env"].pop()),
    ("exit_codes", "cronjob", "jobTemplate", lambda t: job_of(t).pop("podFailurePolicy")),
    ("exit_codes", "multi-gpu", "template", lambda t: job_of(t)["podFailurePolicy"]["rules"].pop()),
    ("exit_codes", "indexed", "template", lambda t: first(t).update(name="other")),
    (
        "exit_codes", "indexed", "template",
        lambda t: job_of(t)["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=[1, 4]),
    ),
    ("ends_at_last", "cronjob", "jobTemplate", lambda t: job_of(t).pop("activeDeadlineSeconds")),
    ("ends_at_last", "indexed", "template", lambda t: job_of(t).pop("backoffLimitPerIndex")),
]  # fmt: skip


@pytest.mark.parametrize(("promise", "overlay", "place", "mutate"), MUTATIONS)
def test_a_pod_that_breaks_a_promise_is_found(promise: str, overlay: str, place: str, mutate: Mutation) -> None:
    template = template_of(overlay, place)
    mutate(template)
    assert promise in broken(template)


def test_each_promise_has_been_seen_to_be_broken() -> None:
    assert {promise for promise, *_ in MUTATIONS} == set(PROMISES)


def test_the_first_rule_that_fits_decides() -> None:
    ignore = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    fail = {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [3]}}
    job = {"podFailurePolicy": {"rules": [ignore, fail]}}
    assert [action(job, 3), action(job, 2), action(job, 2, disrupted=True)] == ["Count", "FailJob", "Ignore"]
