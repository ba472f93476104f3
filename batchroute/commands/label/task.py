"""What is labelled: the prompts, the models or recorded responses, the metric, and the identity of it all."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from batchroute import models
from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.prompts import open_prompts
from batchroute.config.job import JobModel, without_reader
from batchroute.errors import InputError
from batchroute.fields import LARGE, SIDES, Side
from batchroute.pipeline.identity import Identity, begun_on_the_same, model_settings
from batchroute.quality.measuring.responses import RECORDED, RecordedResponses
from batchroute.storage.table_file import TableFile
from batchroute.storage.workdir import Workdir, run_ids
from batchroute.tables.prompts import Prompts

RUN_FILE = "run.json"
_TEMPERATURE = 0.7


class LabelTask:
    """What is labelled.

    Attributes:
        recorded: by side, the column with its responses; the other sides are asked.
        likeness: whether the large model's answers are the reference.
        reference: the column with references; None if there is none.
        specs: by side, the model that is asked.

    Raises:
        InputError: the options do not fit each other or the input.
    """

    def __init__(self, options: LabelOptions) -> None:
        self.options = options
        self.input = open_prompts(options.prompts)
        self.table = self.input.table
        self.prompts = Prompts.of(options.prompt, self.table, unsupported="fail")
        names = self.table.schema.names
        self.recorded = dict(options.recorded)
        if not self.recorded and any(column in names for column in RECORDED.values()):
            self.recorded = {side: side for side in SIDES}
        self.likeness = options.reference == LARGE
        given = None if self.likeness else options.reference
        self.reference = given or ("reference" if "reference" in names else None)
        self._check_options()
        self.specs = {side: self._spec(side) for side in SIDES if side not in self.recorded}

    @property
    def checks_likeness(self) -> bool:
        """Whether there are references that say how far likeness can be trusted."""
        return self.likeness and self.reference is not None and self.options.metric.record.needs_reference

    def check_reference(self) -> None:
        """Raises:
        InputError: the metric needs a reference, and there is none.
        """
        if self.reference is None and not self.likeness and self.options.metric.record.needs_reference:
            raise InputError(
                f"the metric {self.options.metric.name} needs a reference: name its column with --reference; the input "
                f"has {', '.join(self.table.schema.names)}"
            )

    def known_name(self, side: Side) -> str | None:
        """The model that the job names, or the input's metadata."""
        if self.options.models is not None:
            return self.options.models.of(side).model
        name = (self.table.schema.metadata or {}).get(f"{side}_model".encode())
        return None if name is None else name.decode()

    def identify(self, file: TableFile) -> tuple[dict[str, Any], str]:
        """The tree of settings and files, and its fingerprint; of a run that an earlier version began, or that began
        on files of which these are copies, as it was.
        """
        now, earlier = (Identity(settings=self._settings(version), files=self.input.files) for version in (2, 1))
        known, begun = file.fingerprint(), run_ids(file.output)
        if earlier.fingerprint == known or earlier.run_id in begun:
            return earlier.tree, earlier.fingerprint
        if now.fingerprint == known or now.run_id in begun:
            return now.tree, now.fingerprint
        trees = [tree for run_id in begun if (tree := Workdir(file.output, run_id).read_json(RUN_FILE)) is not None]
        for identity in (now, earlier):
            same = begun_on_the_same(trees, identity, self.input.source)
            if same is not None:
                if not self.input.columns:
                    self.table = dataclasses.replace(self.table, files=same.files)
                return same.tree, same.fingerprint
        return now.tree, now.fingerprint

    def _check_options(self) -> None:
        options, names = self.options, self.table.schema.names
        sampled = [side for side in SIDES if side not in self.recorded]
        if self.recorded and sampled and options.models is None:
            raise InputError(f"label needs --job for the {sampled[0]} model, whose responses are not recorded")
        if sampled and options.models is None:
            raise InputError(
                "label needs --job for the two models, or an input with the columns "
                f"{' and '.join(RECORDED.values())}; it has {', '.join(names)}"
            )
        if self.table.rows == 0:
            raise InputError(f"{options.prompts} has no rows: there is nothing to label")
        if self.recorded:
            RecordedResponses(self.table, self.recorded)
        for side in options.names:
            if side in sampled:
                raise InputError(f"--{side}-model names the model of recorded responses; here the job names it")
        if sampled and options.temperature == 0 and options.samples > 1:
            raise InputError(
                f"{options.samples} samples at temperature 0 would all be the same: give another --temperature"
            )
        if self.reference is not None:
            self.table.check_groupable(self.reference, "--reference")
        if options.id is not None:
            self.table.check_column(options.id, "--id")
        for column in options.signals:
            self.table.check_column(column, "--signal")
        if options.helper is not None:
            self.table.check_groupable(options.helper, "--helper")
        if options.agree and not self.recorded and options.samples <= options.agree:
            raise InputError(
                f"--agree compares each response with {options.agree} others of the same prompt: take more --samples"
            )

    def _spec(self, side: Side) -> JobModel:
        assert self.options.models is not None
        # What a reader, which learns from the table, reads of answers is in none of its columns.
        spec = without_reader(self.options.models.of(side))
        temperature = self.options.temperature
        if temperature is None and spec.generation.greedy and self.options.samples > 1:
            temperature = _TEMPERATURE
        given = {} if temperature is None else {"temperature": temperature}
        generation = spec.generation.model_copy(update={**given, "seed": self.options.seed})
        return spec.model_copy(update={"generation": generation})

    def _settings(self, version: Literal[1, 2]) -> dict[str, Any]:
        """Everything that the table depends on; models by their identity."""
        settings: dict[str, Any] = self.options.model_dump(
            mode="json",
            include={"prompt", "id", "names"} | ({"samples", "seed"} if self.specs else set()),
        )
        # Under the names that the columns have by default, an earlier version's table has these settings.
        if self.options.recorded:
            settings["recorded"] = self.options.recorded
        metric = self.options.metric.model_dump(
            mode="json", exclude={"batch_size", "api_key_env", "endpoint"}, exclude_none=True
        )
        if metric.get("model") and not self.options.metric.record.behind_api:
            metric["identity"] = models.identity(metric["model"], version=version)
        settings |= {"reference": LARGE if self.likeness else self.reference, "metric": metric}
        # An earlier version's table has these settings without them.
        settings |= {key: kept for key in ("signals", "helper", "agree") if (kept := getattr(self.options, key))}
        for side, spec in self.specs.items():
            settings[side] = model_settings(spec, version)
        return settings
