"""What the screen must not show: secrets of the environment and of the job file, whatever an error repeats."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchroute.config.job import Job
from batchroute.fields import SIDES
from batchroute.redaction import Redactor, passwords

_NAMES = re.compile(r"(?i)(?:^|[_.-])(?:api_?key|key|secret|token|passw(?:or)?d|credentials?|auth)(?:$|[_.-])")
# A value such as `true` would be hidden in words that have nothing to do with it.
_SHORTEST = 6


def redactor(environment: Mapping[str, str], job: Job | None) -> Redactor:
    """Of the secrets that are known: variables and options by their names, passwords in URLs, keys of the models."""
    found = [*_of_mapping(environment)]
    found += [secret for value in environment.values() if "://" in value for secret in _in_url(value)]
    if job is not None:
        found += _of_job(job, environment)
    return Redactor(found)


def _of_job(job: Job, environment: Mapping[str, str]) -> Iterator[str]:
    table = job.output.table
    for options in (job.input.storage_options, job.output.storage_options, table.storage_options if table else {}):
        yield from _of_mapping(options)
    for catalog in (job.input.catalog, table.catalog if table else {}):
        yield from _of_mapping(catalog)
        for value in catalog.values():
            yield from _in_url(value)
    for url in (job.input.warehouse, table.warehouse if table else ""):
        yield from _in_url(url)
    for side in SIDES:
        spec = job.models.of(side)
        yield from _in_url(spec.endpoint or "")
        yield environment.get(spec.api_key_env, "").strip()
    audit = job.report.audit
    if audit is not None and audit.metric is not None:
        yield from _in_url(audit.metric.endpoint or "")
        yield environment.get(audit.metric.api_key_env, "").strip()


def _of_mapping(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _of_mapping(value)
        elif isinstance(value, str) and _NAMES.search(name) and len(value) >= _SHORTEST and not os.path.exists(value):
            yield value.strip()


def _in_url(url: str) -> list[str]:
    try:
        return passwords(url)
    except ValueError:
        return []
