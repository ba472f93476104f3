"""The identity of a run: its input files and the settings that its results depend on; and how two runs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from batchroute import models, quality
from batchroute.config.job import Job, JobModel
from batchroute.errors import InputError, at_key
from batchroute.fields import SIDES
from batchroute.generators.backend_settings import BACKEND_SETTINGS
from batchroute.pipeline import layout
from batchroute.pipeline.readers import FITTED_KEY, KEY
from batchroute.policy.settings import Rule
from batchroute.router.calibration.points import Calibration, Point
from batchroute.router.notes import CALIBRATION_FILE, CONFIDENCE_FILE, REFERENCE_FILE
from batchroute.router.reading import identity_of as reader_identity
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables.files import Files, InputFile
from batchroute.tables.sources import files_of

# Settings that affect speed, place or reporting but not results: they are not part of a run's identity.
_NOT_RESULTS_OF_AN_OUTPUT = {"uri", "table", "storage_options", "single_writer", "keep_work"}
_NOT_RESULTS = {
    "name": True,
    "output": _NOT_RESULTS_OF_AN_OUTPUT,
    "report": True,
    "units": True,
    "max_failed": True,
    "max_cost": True,
    "max_tokens": True,
    "prices": True,
    "models": True,
    "notify": True,
    "lineage": True,
    "ray": True,
    "cache": True,
}


class Identity(BaseModel):
    """The settings that a run's results depend on, and its input files as they are now."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any]
    files: list[InputFile]
    """Empty for a query or a table of a lake, which the settings identify."""

    @property
    def tree(self) -> dict[str, Any]:
        return {"settings": self.settings, "files": [file.identity() for file in self.files]}

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.tree)

    @property
    def run_id(self) -> str:
        return self.fingerprint[:16]


def identify(job: Job) -> Identity:
    """The identity of the job's run. A run that an earlier version began or committed keeps the identity that it has:
    that version made digests of models from less of their files.

    Raises:
        InputError: about the input's files or a model that is not there.
    """
    source = files_of(job.input) if job.input.uri else None
    files = [] if source is None else source.find()
    now, earlier = (Identity(settings=_settings(job, version), files=files) for version in (2, 1))
    output = folder_at(job.output.uri, job.output.storage_options)
    committed = manifest.read(output)
    begun = [committed.run_id] if committed is not None else run_ids(output)
    identities = (now,) if earlier == now else (earlier, now)
    for identity in identities:
        if identity.fingerprint == committed.fingerprint if committed is not None else identity.run_id in begun:
            return identity
    if source is None or not begun:
        return now
    trees = _trees(output, begun, committed)
    copies = (begun_on_the_same(trees, identity, source) for identity in identities)
    return next((identity for identity in copies if identity is not None), now)


def _trees(output: Folder, begun: Sequence[str], committed: Manifest | None) -> list[dict[str, Any]]:
    """The settings and the input files of the runs at the output."""
    trees = [tree for run_id in begun if (tree := Workdir(output, run_id).read_json(layout.RUN)) is not None]
    if committed is not None:
        trees.append({"settings": committed.settings, "source": committed.source, "files": committed.input_files})
    return trees


def begun_on_the_same(trees: Sequence[dict[str, Any]], identity: Identity, source: Files) -> Identity | None:
    """The identity of a run at the output, if it has these settings, and its input was only copied again since.

    A copy has another time or etag, which are part of an identity.
    """
    for tree in trees:
        if tree["settings"] != identity.settings:
            continue
        files = tree.get("source", {}).get("files") or tree["files"]
        then = {file.path: file for file in map(InputFile.model_validate, files)}
        if then.keys() == {file.path for file in identity.files} and all(
            source.is_same(then[file.path], file) for file in identity.files
        ):
            files = [file.as_it_was(then[file.path]) for file in identity.files]
            return Identity(settings=identity.settings, files=files)
    return None


def _settings(job: Job, version: Literal[1, 2]) -> dict[str, Any]:
    """All settings that the results depend on. Models stand by their digest, so that new weights are another run."""
    settings = job.model_dump(mode="json", exclude=_NOT_RESULTS, exclude_none=True)  # type: ignore[arg-type]
    settings["input"] = _input_settings(job)
    if job.router is not None:
        for name in ("token_budget", "allow_pickle"):
            settings["router"].pop(name, None)
        if job.router.precision == "auto":
            # As in files of earlier versions.
            del settings["router"]["precision"]
        settings["router"]["model"] = models.identity(
            job.router.model, ignore=[CALIBRATION_FILE, REFERENCE_FILE, CONFIDENCE_FILE], version=version
        )
    settings["policy"] = _policy_settings(job)
    if job.report.signals:
        # Unlike the rest of the section it adds columns to the output.
        settings["report"] = {"signals": True}
    if job.cache is not None:
        # It adds a column to the output. Where answers are kept, and how long, changes none of them.
        settings["cache"] = True
    settings["models"] = {side: model_settings(job.models.of(side), version) for side in SIDES}
    return settings


def _policy_settings(job: Job) -> dict[str, Any]:
    """The policy, with the figures of the router's calibration that it uses.

    `on_drift` counts only as `large`, which changes routes: a run that stopped on drift goes on with another value.
    """
    policy = job.policy
    settings = policy.model_dump(mode="json", exclude_none=True, exclude={"on_drift", "calibrate", "calibration"})
    if policy.decide == "before":
        # As in files of earlier versions, which decide in no other way.
        del settings["decide"]
    if policy.calibrate is not None:
        tonight = policy.calibrate
        settings["calibrate"] = {
            **tonight.model_dump(mode="json", exclude_none=True, include={"rows", "reference", "seed"}),
            "metric": quality.describe(tonight.metric),
        }
        if tonight.reader is not None:
            with at_key(FITTED_KEY):
                settings["calibrate"]["reader"] = models.identity(tonight.reader)
    stored = None
    if policy.looks_after:
        from batchroute.pipeline.stored_confidence import stored_confidence

        stored = stored_confidence(job)
    if stored is not None:
        used = stored.model_dump(mode="json", include={"model", "points", "answered", "large_mean"})
        settings["confidence"] = f"sha256:{fingerprint_of(used)[:16]}"
    for group, rule in policy.rules():
        if policy.calibrate is not None or policy.looks_after:
            continue
        own = settings if group is None else settings["groups"][group]
        if rule.max_quality_drop is not None:
            point = calibrated_point(job, rule)
            own["calibrated"] = "all to large" if point is None else point.model_dump(mode="json")
        if rule.budget is not None:
            calibration = known_calibration(job)
            used = {} if calibration is None else calibration.model_dump(mode="json", include={"gain", "lengths"})
            own["calibrated"] = f"sha256:{fingerprint_of(used)[:16]}"
    if policy.on_drift == "large" and job.router is not None:
        from batchroute.router.drift.reference import Reference

        settings["on_drift"] = policy.on_drift
        reference = Reference.of(job.router.model)
        if reference is not None:
            settings["reference"] = f"sha256:{fingerprint_of(reference.model_dump(mode='json'))[:16]}"
    return settings


def model_settings(model: JobModel, version: Literal[1, 2] = 2) -> dict[str, Any]:
    """The settings of a model that its responses and costs depend on. Local weights stand by their digest."""
    backend = model.record
    no_results = BACKEND_SETTINGS - (backend.settings - backend.speed)
    settings = model.model_dump(mode="json", exclude=set(no_results), exclude_none=True)
    # Part of every run's identity since the first version, whatever the backend.
    settings = {"dtype": "auto", "extra_body": {}, **settings}
    if model.confidence is not None and model.confidence.model is not None:
        settings["confidence"]["model"] = models.identity(model.confidence.model, version=version)
    if model.reader is not None:
        with at_key(KEY):
            settings["confidence"]["reader"] = reader_identity(model.reader)
    if model.extra_body:
        # As a digest: the body may hold a secret.
        settings["extra_body"] = f"sha256:{fingerprint_of(model.extra_body)[:16]}"
    if backend.engine_speed is not None:
        engine = {name: value for name, value in model.engine.items() if name not in backend.engine_speed}
        settings |= {"engine": engine} if engine else {}
    if backend.holds_weights:
        settings["identity"] = models.identity(model.model, version=version)
        if model.adapter is not None:
            settings["adapter"] = models.identity(model.adapter, version=version)
    return settings


def _input_settings(job: Job) -> dict[str, Any]:
    """The input without its place, which the files' identities hold, and without options that may hold secrets."""
    settings = job.input.model_dump(
        mode="json", exclude={"uri", "storage_options", "catalog", "drift"}, exclude_defaults=True, exclude_none=True
    )
    if job.input.warehouse:
        from batchroute.tables.warehouse import Warehouse

        settings["warehouse"] = Warehouse(job.input.warehouse).identity
    if job.input.only_new is not None and job.output.table is not None:
        settings["only_new"]["table"] = job.output.table.identity
    return {"prompt": job.input.prompt, **settings}


def known_calibration(job: Job) -> Calibration | None:
    """The router's calibration, for forecasts; None without one that fits the job."""
    if job.router is None:
        return None
    calibration = Calibration.known(job.router.model)
    return None if calibration is None or _unfit(job, calibration) else calibration


def calibrated_point(job: Job, rule: Rule) -> Point | None:
    """The calibration point that keeps within `max_quality_drop`; None sends all rows to the large model.

    Raises:
        InputError: the router is not calibrated, or was calibrated on other models or with more tokens a prompt.
    """
    assert job.router is not None
    calibration = Calibration.of(job.router.model)
    problem = _unfit(job, calibration)
    if problem is not None:
        raise InputError(problem)
    return rule.point(calibration)


def _unfit(job: Job, calibration: Calibration) -> str | None:
    """Why the job cannot use this calibration; None when it can."""
    assert job.router is not None
    for side in SIDES:
        name, measured = job.models.of(side).model, calibration.models[side]
        if measured is not None and measured != name:
            return (
                f"policy.max_quality_drop: the router '{job.router.model}' was calibrated with {measured} as the "
                f"{side} model, but models.{side}.model is {name}: calibrate it on a quality table of this pair, or "
                "route by threshold or small_share"
            )
    length = job.router.max_length
    if length is not None and length < calibration.max_length:
        return (
            f"router.max_length {length} is less than the {calibration.max_length} tokens that the router "
            f"'{job.router.model}' was calibrated with: leave it out"
        )
    return None


def fingerprint_of(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def difference(place: object, what: str, other: dict[str, Any], now: dict[str, Any]) -> str:
    """One sentence that names the first key in which another run differs from this one.

    Args:
        place, what: the sentence begins with both: "<output>" "holds the unfinished run of".
        other, now: `settings`, a tree, and `files`, identities with a `path`.
    """
    advice = "choose another output.uri, or start again with --fresh"
    before, after = _flat(other["settings"]), _flat(now["settings"])
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            change = f"{key} was {before.get(key, 'not set')} and is {after.get(key, 'not set')}"
            return f"{place} {what} another job: {change}; {advice}"
    old = {file["path"]: InputFile.model_validate(file).identity() for file in other["files"]}
    new = {file["path"]: file for file in now["files"]}
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            change = "is new" if path not in old else "is gone" if path not in new else "has changed"
            return f"{place} {what} another input: {path} {change}; {advice}"
    return f"{place} {what} another batchroute format; {advice}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def calibrated_limits(job: Job) -> list[str]:
    """The calibrated threshold of each rule that limits the drop, a line each."""
    return [
        ("" if group is None else f"{group}: ") + _limited(job, rule)
        for group, rule in job.policy.rules()
        if rule.max_quality_drop is not None and job.policy.calibrate is None and not job.policy.looks_after
    ]


def _limited(job: Job, rule: Rule) -> str:
    goal, point = rule.words, calibrated_point(job, rule)
    if point is None:
        return f"{goal}: no threshold of the calibration keeps within it, so all rows go to the large model"
    return (
        f"{goal}: threshold {point.threshold:.4g}, on the calibration rows {point.cost_advantage:.0%} to small "
        f"with a drop of {point.drop:.2f} % (at most {point.bound:.2f} % with 95 % confidence)"
    )
