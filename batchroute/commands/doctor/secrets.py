"""Secrets of the environment and of the job file, which an error message may repeat and the doctor must hide."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.key import Key
from batchroute.redaction import Redactor, is_secret_variable, passwords

# Shorter values, such as `true`, also occur in harmless words.
_SHORTEST = 6


def redactor(environment: Mapping[str, str], job: Job | None) -> Redactor:
    """Hides variables and options with secret names, passwords in URLs, and API keys of the models."""
    secrets = [*_of_mapping(environment)]
    secrets += [secret for value in environment.values() if "://" in value for secret in _in_url(value)]
    if job is not None:
        secrets += _of_job(job, environment)
    return Redactor(secrets)


def _of_job(job: Job, environment: Mapping[str, str]) -> Iterator[str]:
    table = job.output.table
    cache = {} if job.cache is None else job.cache.storage_options
    of_files = (job.input.storage_options, job.output.storage_options, cache)
    for options in (*of_files, table.storage_options if table else {}):
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
        yield environment.get(spec.key_variable, "").strip()
        yield from (value for value in (spec.headers or {}).values() if value is not None)
        if spec.api_key_file is not None:
            with contextlib.suppress(InputError):
                yield Key(spec.key_variable, spec.api_key_file).value
    audit = job.report.audit
    if audit is not None and audit.metric is not None:
        yield from _in_url(audit.metric.endpoint or "")
        yield environment.get(audit.metric.api_key_env, "").strip()


def _of_mapping(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _of_mapping(value)
        elif (
            isinstance(value, str)
            and is_secret_variable(name)
            and len(value) >= _SHORTEST
            and not os.path.exists(value)
        ):
            yield value.strip()


def _in_url(url: str) -> list[str]:
    try:
        return passwords(url)
    except ValueError:
        return []
