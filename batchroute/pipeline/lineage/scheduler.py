"""What the scheduler's environment says of a run: the run that started it, and when it was due."""

from __future__ import annotations

import contextlib
import datetime
import os
import uuid
from typing import NamedTuple

# Airflow's, of versions 3 and 2.
_DUE = ("AIRFLOW_CTX_LOGICAL_DATE", "AIRFLOW_CTX_EXECUTION_DATE")


class Parent(NamedTuple):
    namespace: str
    name: str
    run_id: str


def parent(prefix: str) -> Parent | None:
    """The run that `<prefix>_ID` names as `namespace/name/run id`, or `<prefix>_JOB_NAMESPACE`, `_JOB_NAME` and
    `_RUN_ID` do; None where it is not said, or the run id is no UUID.
    """
    namespace, _, rest = os.environ.get(f"{prefix}_ID", "").rpartition("/")
    namespace, _, name = namespace.rpartition("/")
    if not rest:
        keys = ("JOB_NAMESPACE", "JOB_NAME", "RUN_ID")
        namespace, name, rest = (os.environ.get(f"{prefix}_{key}", "") for key in keys)
    with contextlib.suppress(ValueError):
        return Parent(namespace, name, str(uuid.UUID(rest))) if namespace and name else None
    return None


def nominal_time(given: datetime.datetime | None) -> str | None:
    """When the run was due, in ISO 8601: as the job file says, else as Airflow does; UTC without a zone."""
    for name in _DUE:
        if given is None and os.environ.get(name):
            with contextlib.suppress(ValueError):
                given = datetime.datetime.fromisoformat(os.environ[name])
    if given is None:
        return None
    return (given if given.tzinfo else given.replace(tzinfo=datetime.UTC)).isoformat()
