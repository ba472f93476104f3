"""A job's router, models and policy: are the models on this machine, do they fit, do endpoints answer?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchroute import generators, models, quality
from batchroute.commands.doctor import weights
from batchroute.commands.doctor.finding import Finding, note, ok, problem
from batchroute.commands.doctor.hub import Hub
from batchroute.commands.doctor.machine import Machine
from batchroute.commands.doctor.network import unreached_url
from batchroute.commands.doctor.packages import missing
from batchroute.config.job import Job
from batchroute.endpoint import base_url
from batchroute.errors import InputError
from batchroute.fields import SIDES, Side
from batchroute.generators.settings import ModelSpec
from batchroute.hardware.devices import of_rank
from batchroute.key import Key
from batchroute.pipeline.audit.metric import metric_of
from batchroute.pipeline.identity import calibrated_point, known_calibration
from batchroute.quality.base import MetricSpec
from batchroute.redaction import host
from batchroute.words import plural

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Pair:
    """
    Attributes:
        ranks: ranks on this machine; each loads its own models.
    """

    job: Job
    machine: Machine
    hub: Hub
    ranks: int = 1

    def router(self) -> Finding:
        """Raises:
        InputError: the router does not exist, is not a trained classifier, or must not be loaded.
        """
        router = self.job.router
        if router is None:
            return ok("router", "none: the small model's answers decide")
        spec = ModelSpec(backend="transformers", model=router.model, allow_pickle=router.allow_pickle)
        return self._loaded("router", spec, is_router=True)

    def model(self, side: Side) -> Iterator[Finding]:
        """Raises:
        InputError: the model does not exist or must not be loaded; its key or its endpoint's URL is missing or wrong.
        """
        spec = self.job.models.of(side)
        if spec.record.behind_api:
            yield self._behind_api(side, spec)
            return
        if not spec.record.holds_weights:
            yield ok(side, f"{generators.check(spec)}: a backend without a model")
            return
        if spec.why_backend is not None:
            yield ok(side, f"backend: auto takes {spec.backend}: {spec.why_backend}")
        yield self._loaded(side, spec)
        if spec.adapter is not None:
            located = self.hub.locate(spec.adapter, _ADAPTER)
            if located.folder is None:
                yield self._absent(side, f"the adapter {spec.adapter}")
            else:
                with _named(located.folder, spec.adapter):
                    models.check_adapter(str(located.folder), spec.allow_pickle)
                yield ok(side, f"the adapter {spec.adapter} is here")

    def audit(self) -> Iterator[Finding]:
        """The audit's metric, if it needs a model or an endpoint.

        Raises:
            InputError: the metric is unknown, its model is missing, or it has no key.
        """
        if self.job.report.audit is None or not (self.job.report.audit.metric or router_is_there(self.job)):
            return
        metric = metric_of(self.job)
        if metric.record.behind_api:
            yield _judge(metric)
        elif metric.model is not None:
            located = self.hub.locate(metric.model)
            here = ok("audit", f"{metric.name} by {metric.model}, which is here")
            yield here if located.whole else self._absent("audit", metric.model)

    def policy(self) -> Iterator[Finding]:
        """Raises:
        InputError: the policy needs a calibration that fits the job, and the router has none.
        """
        policy = self.job.policy
        if not router_is_there(self.job) or policy.calibrate is not None or policy.looks_after:
            return
        for group, rule in self.job.policy.rules():
            words = rule.words if group is None else f"{group}: {rule.words}"
            if rule.max_quality_drop is not None:
                point = calibrated_point(self.job, rule)
                if point is None:
                    remedy = "raise the limit, calibrate on more rows, or see what it can do with `batchroute evaluate`"
                    yield note("policy", f"{words}: the calibration has no threshold for it, all go to large", remedy)
                else:
                    yield ok("policy", f"{words}: the router is calibrated, threshold {point.threshold:.4g}")
            elif rule.budget is not None:
                known = (
                    "the router is calibrated" if known_calibration(self.job) else "by the score alone, uncalibrated"
                )
                yield ok("policy", f"{words}: {known}")

    def extras(self) -> dict[str, str]:
        """The extras that the job needs, each with the setting that needs it; storages and drivers report their own."""
        why: dict[str, str] = {}
        for side in SIDES:
            spec = self.job.models.of(side)
            for extra, key in spec.record.extras(spec).items():
                why.setdefault(extra, f"models.{side}.{key}")
        if self.job.prices is not None and self.job.prices.published:
            why["prices"] = "prices.published"
        metric = None if self.job.report.audit is None else self.job.report.audit.metric
        if metric is not None and metric.record.extra is not None:
            why.setdefault(metric.record.extra, f"report.audit.metric {metric.name}")
        if self.job.lineage is not None:
            why["lineage"] = "lineage"
        if "ray" in self.job.model_fields_set:
            why["ray"] = "ray"
        return why

    def _loaded(self, subject: str, spec: ModelSpec, is_router: bool = False) -> Finding:
        located = self.hub.locate(spec.model)
        if located.folder is None:
            return self._absent(subject, spec.model)
        with _named(located.folder, spec.model):
            models.check(
                str(located.folder),
                is_router,
                generator=not is_router,
                trust_remote_code=spec.trust_remote_code,
                allow_pickle=spec.allow_pickle,
            )
        if not located.whole:
            return self._absent(subject, f"the weights of {spec.model}")
        if not is_router:
            # What only the backend knows, such as its use of the chat template.
            with _named(located.folder, spec.model):
                generators.check(spec.model_copy(update={"model": str(located.folder), "adapter": None}))
        taken, how = weights.needed(located.folder, spec, bool(self.machine.gpus.seen), is_router)
        if not taken:
            return problem(subject, f"{spec.model}: a configuration without weights", "save or download it again")
        return weights.fit(subject, spec.model, taken, how, spec, self.machine, self.ranks)

    def _absent(self, subject: str, name: str) -> Finding:
        """The finding for a model that is not on this machine."""
        words = f"{name}: not on this machine"
        if self.hub.offline:
            return problem(
                subject,
                f"{words}, and HF_HUB_OFFLINE is set",
                "fix the name, unset HF_HUB_OFFLINE, or fetch it where there is a network (`hf download NAME`)",
            )
        if self.hub.unreached:
            remedy = "fix the network, HF_ENDPOINT or the proxy, or bring the model here and name its folder"
            return problem(subject, f"{words}, and the hub cannot be reached: {self.hub.unreached}", remedy)
        return note(subject, f"{words}: the run downloads it", "`hf download NAME` does so before the night")

    def _behind_api(self, side: Side, spec: ModelSpec) -> Finding:
        if any(missing(extra) for extra in spec.record.extras(spec)):
            return note(side, f"{spec.model}: not checked before the extra is installed")
        place, url = generators.check(spec), base_url(spec.url)
        found = Key(spec.key_variable, spec.api_key_file, spec.api_key_command)
        key = f"key in {found.source}" if found.value else "no key"
        return _answering(side, f"{place}, {key}", f"{url.partition('://')[0]}://{host(url)}")


def _judge(metric: MetricSpec) -> Finding:
    if missing(metric.record.extra or ""):
        return note("audit", f"{metric.name}: not checked before the extra is installed")
    quality.load(metric, lambda: of_rank(0)).close()
    url = base_url(metric.endpoint)
    return _answering(
        "audit", f"{metric.name} {metric.model} at {host(url)}", f"{url.partition('://')[0]}://{host(url)}"
    )


def _answering(subject: str, words: str, url: str) -> Finding:
    """Try a connection only: a request might cost money."""
    why = unreached_url(url)
    if why:
        remedy = "start the server, or fix the endpoint, the network or the proxy"
        return problem(subject, f"{words}: it cannot be reached: {why}", remedy)
    return ok(subject, f"{words}: a connection can be made")


@contextmanager
def _named(folder: Path, name: str) -> Iterator[None]:
    """Replace the path of the hub's cache in an error by the model's name."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(folder), name)) from error


def router_is_there(job: Job) -> bool:
    """Whether the router exists. If not, its own finding says so, and other checks skip it."""
    if job.router is None:
        return False
    try:
        models.resolve(job.router.model)
    except InputError:
        return False
    return True


def processes(machine: Machine) -> Finding:
    seen = len(machine.gpus.seen)
    why = "one for each GPU" if seen else "there is no GPU"
    return ok("processes", f"--processes auto starts {plural(seen or 1, 'process', 'processes')}: {why}")
