"""A job's router and models: whether they are here, fit into memory, or answer at their endpoints; its calibration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchroute import generators, models
from batchroute.commands.doctor import weights
from batchroute.commands.doctor.finding import Finding, counted, note, problem, well
from batchroute.commands.doctor.hub import Hub
from batchroute.commands.doctor.machine import Machine
from batchroute.commands.doctor.network import unreached_url
from batchroute.commands.doctor.packages import missing
from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.audit import sample as audit
from batchroute.pipeline.identity import calibrated_point, known_calibration
from batchroute.quality.base import MetricSpec
from batchroute.redaction import host

_ADAPTER = "adapter_config.json"
_OPENAI = "https://api.openai.com/v1"
_TEXT_METRICS = ("rouge", "bleu", "chrf")


@dataclass(frozen=True)
class Pair:
    """
    Attributes:
        ranks: processes of the run on this machine, each with models of its own.
    """

    job: Job
    machine: Machine
    hub: Hub
    ranks: int = 1

    def router(self) -> Finding:
        """Raises:
        InputError: it is not there, is no trained classifier, or may not be loaded.
        """
        spec = ModelSpec(backend="transformers", model=self.job.router.model, allow_pickle=self.job.router.allow_pickle)
        return self._loaded("router", spec, is_router=True)

    def model(self, side: Side) -> Iterator[Finding]:
        """Raises:
        InputError: it is not there or may not be loaded; its key or its endpoint's URL is missing or wrong.
        """
        spec = self.job.models.of(side)
        if spec.backend == "echo":
            yield well(side, "echo: answers with the prompt, no model")
            return
        if spec.behind_api:
            yield self._behind_api(side, spec)
            return
        yield self._loaded(side, spec)
        if spec.adapter is not None:
            found = self.hub.locate(spec.adapter, _ADAPTER)
            if found.folder is None:
                yield self._absent(side, f"the adapter {spec.adapter}")
            else:
                with _named(found.folder, spec.adapter):
                    models.check_adapter(str(found.folder), spec.allow_pickle)
                yield well(side, f"the adapter {spec.adapter} is here")

    def audit(self) -> Iterator[Finding]:
        """What the audit measures with, where that is a model or an endpoint.

        Raises:
            InputError: it is not known, not there, or has no key.
        """
        if self.job.report.audit is None or not (self.job.report.audit.metric or router_is_there(self.job)):
            return
        metric = audit.metric_of(self.job)
        if metric.name == "judge":
            yield _judge(metric)
        elif metric.model is not None:
            found = self.hub.locate(metric.model)
            here = well("audit", f"{metric.name} by {metric.model}, which is here")
            yield here if found.whole else self._absent("audit", metric.model)

    def policy(self) -> Iterator[Finding]:
        """Raises:
        InputError: the policy needs a calibration that fits the job, and the router has none.
        """
        if not router_is_there(self.job):
            return
        for group, rule in self.job.policy.rules():
            words = rule.words if group is None else f"{group}: {rule.words}"
            if rule.max_quality_drop is not None:
                point = calibrated_point(self.job, rule)
                if point is None:
                    remedy = "raise the limit, calibrate on more rows, or see by `batchroute evaluate` what it can do"
                    yield note("policy", f"{words}: the calibration has no threshold for it, all go to large", remedy)
                else:
                    yield well("policy", f"{words}: the router is calibrated, threshold {point.threshold:.4g}")
            elif rule.budget is not None:
                known = (
                    "the router is calibrated" if known_calibration(self.job) else "by the score alone, uncalibrated"
                )
                yield well("policy", f"{words}: {known}")

    def extras(self) -> dict[str, str]:
        """The extras that the job needs, by name, each with what needs it. Storages and drivers name their own."""
        why: dict[str, str] = {}
        for side in SIDES:
            spec = self.job.models.of(side)
            if spec.backend == "vllm":
                why.setdefault("vllm", f"models.{side}.backend is vllm")
            elif spec.behind_api:
                why.setdefault("openai", f"models.{side}.backend is {spec.backend}")
            elif spec.backend == "transformers":
                if spec.quantization is not None:
                    why.setdefault("quantization", f"models.{side}.quantization")
                if spec.adapter is not None:
                    why.setdefault("adapters", f"models.{side}.adapter")
        if self.job.prices is not None and self.job.prices.published:
            why["prices"] = "prices.published"
        metric = None if self.job.report.audit is None else self.job.report.audit.metric
        if metric is not None and metric.name in _TEXT_METRICS:
            why["quality"] = f"report.audit.metric {metric.name}"
        if metric is not None and metric.name == "judge":
            why.setdefault("openai", "report.audit.metric judge")
        if "ray" in self.job.model_fields_set:
            why["ray"] = "ray"
        return why

    def _loaded(self, subject: str, spec: ModelSpec, is_router: bool = False) -> Finding:
        found = self.hub.locate(spec.model)
        if found.folder is None:
            return self._absent(subject, spec.model)
        with _named(found.folder, spec.model):
            models.check(
                str(found.folder), is_router, trust_remote_code=spec.trust_remote_code, allow_pickle=spec.allow_pickle
            )
        if not found.whole:
            return self._absent(subject, f"the weights of {spec.model}")
        taken, how = weights.needed(found.folder, spec, bool(self.machine.gpus.seen))
        if not taken:
            return problem(subject, f"{spec.model}: a configuration without weights", "save or download it anew")
        return weights.fit(subject, spec.model, taken, how, spec, self.machine, self.ranks)

    def _absent(self, subject: str, name: str) -> Finding:
        """What is known of something that only the hub has."""
        words = f"{name}: not on this machine"
        if self.hub.offline:
            return problem(
                subject,
                f"{words}, and HF_HUB_OFFLINE is set",
                "mend the name, unset HF_HUB_OFFLINE, or fetch it where there is a network (`hf download NAME`)",
            )
        if self.hub.unreached:
            remedy = "mend the network, HF_ENDPOINT or the proxy, or bring the model here and name its folder"
            return problem(subject, f"{words}, and the hub cannot be reached: {self.hub.unreached}", remedy)
        return note(subject, f"{words}: the run downloads it", "`hf download NAME` does so before the night")

    def _behind_api(self, side: Side, spec: ModelSpec) -> Finding:
        from batchroute.generators.openai.chat_api import Endpoint

        if missing("openai"):
            return note(side, f"{spec.model}: not looked at before the extra is installed")
        there = Endpoint(spec)
        place = generators.check(spec)
        url = spec.endpoint or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        key = f"key in {spec.api_key_env}" if os.environ.get(spec.api_key_env, "").strip() else "no key"
        return _answering(side, f"{place}, {key}", f"{url.partition('://')[0]}://{there.host}")


def _judge(metric: MetricSpec) -> Finding:
    if missing("openai"):
        return note("audit", "judge: not looked at before the extra is installed")
    from batchroute.quality.judge import Judge

    Judge(metric).close()
    url = metric.endpoint or _OPENAI
    return _answering("audit", f"judge {metric.model} at {host(url)}", f"{url.partition('://')[0]}://{host(url)}")


def _answering(subject: str, words: str, url: str) -> Finding:
    """A connection is all that is tried: a request might cost."""
    why = unreached_url(url)
    if why:
        remedy = "start the server, or mend the endpoint, the network or the proxy"
        return problem(subject, f"{words}: it cannot be reached: {why}", remedy)
    return well(subject, f"{words}: a connection can be made")


@contextmanager
def _named(folder: Path, name: str) -> Iterator[None]:
    """A model of the hub's cache is checked as a folder, and told by its name."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(folder), name)) from error


def router_is_there(job: Job) -> bool:
    """Where it is not, its own line says so, and others need not."""
    try:
        models.resolve(job.router.model)
    except InputError:
        return False
    return True


def processes(machine: Machine) -> Finding:
    seen = len(machine.gpus.seen)
    why = "one for each GPU" if seen else "there is no GPU"
    return well("processes", f"--processes auto starts {counted(seen or 1, 'process', 'processes')}: {why}")
