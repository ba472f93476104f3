from __future__ import annotations

import datetime

import pytest

from batchroute.pipeline.lineage.scheduler import nominal_time, parent

RUN = "0192aeb5-0000-7000-8000-00000000000a"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"ID": f"airflow/dag.task/{RUN}"}, ("airflow", "dag.task", RUN)),
        # A namespace may be an address.
        ({"ID": f"https://airflow.example.com/dag.task/{RUN}"}, ("https://airflow.example.com", "dag.task", RUN)),
        ({"RUN_ID": RUN, "JOB_NAME": "flow", "JOB_NAMESPACE": "argo"}, ("argo", "flow", RUN)),
        ({"ID": "airflow/dag.task/manual__2026-11-24"}, None),
        ({"ID": RUN}, None),
        ({"RUN_ID": RUN}, None),
        ({}, None),
    ],
)
def test_the_run_above_is_named_by_the_environment(
    environment: dict[str, str], found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("ID", "RUN_ID", "JOB_NAME", "JOB_NAMESPACE"):
        monkeypatch.delenv(f"OPENLINEAGE_PARENT_{key}", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(f"OPENLINEAGE_PARENT_{key}", value)
    assert parent("OPENLINEAGE_PARENT") == found


def test_when_a_run_was_due_is_said_by_the_job_or_by_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nominal_time(None) is None
    monkeypatch.setenv("AIRFLOW_CTX_EXECUTION_DATE", "2026-11-23T22:00:00+01:00")
    assert nominal_time(None) == "2026-11-23T22:00:00+01:00"
    monkeypatch.setenv("AIRFLOW_CTX_LOGICAL_DATE", "2026-11-24T22:00:00+00:00")
    assert nominal_time(None) == "2026-11-24T22:00:00+00:00"
    assert nominal_time(datetime.datetime(2026, 11, 25)) == "2026-11-25T00:00:00+00:00"
