"""The job file and the commands of the manifests are ones that batchroute takes."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from batchroute import cli
from batchroute.config import loading
from tests.kubernetes.overlays import OVERLAYS, build, one, settings, templates

LAST_MINUTE = datetime.datetime(2026, 11, 24, 23, 59, tzinfo=datetime.UTC)


def commands(overlay: str) -> list[list[str]]:
    """The words after `batchroute`, each."""
    lines = [template.command for template in templates(overlay) if template.job is not None]
    if overlay == "ray":
        program, *words = shlex.split(one(build(overlay), "RayJob")["spec"]["entrypoint"])
        assert program == "batchroute"
        lines.append(words)
    return lines


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_file_is_accepted(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_DATE", "2026-11-24")
    (text,) = (data["nightly.yaml"] for data in settings(build(overlay)).values() if "nightly.yaml" in data)
    path = tmp_path / "nightly.yaml"
    path.write_text(text)
    job = loading.load(str(path))
    assert job.output.uri == "s3://answers/2026-11-24"


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "shell"])
def test_the_command_is_accepted(overlay: str) -> None:
    run = typer.main.get_command(cli.app).commands["run"]  # type: ignore[attr-defined]
    for name, *words in commands(overlay):
        assert name == "run"
        parsed = run.make_context("run", words).params
        assert parsed["job_file"] == "/etc/batchroute/nightly.yaml"
        assert parsed["json_logs"] is True


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "ray"])
def test_the_job_file_is_where_the_command_looks(overlay: str) -> None:
    for template in templates(overlay):
        mounts = {mount["mountPath"]: mount["name"] for mount in template.pod["containers"][0]["volumeMounts"]}
        name = template.volume(mounts["/etc/batchroute"])["configMap"]["name"]
        assert "nightly.yaml" in template.settings[name]


def by_cron(name: str, job_file: Path) -> subprocess.CompletedProcess[str]:
    """The CronJob's own command, in a Job of that name, but only to validate a job file."""
    (template,) = templates("cronjob")
    container = template.pod["containers"][0]
    words = container["command"]
    assert words[:2] == ["tini", "--"]
    return subprocess.run(
        [*words[2:], "validate", str(job_file)],
        env={**os.environ, "JOB_NAME": name, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


# As the schedule names a Job, in minutes since 1970, and as a person does.
@pytest.mark.parametrize("name", [f"batchroute-{int(LAST_MINUTE.timestamp()) // 60}", "batchroute-2026-11-24"])
def test_the_night_is_read_from_the_name_of_the_job(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"input: {{uri: '{tmp_path}/${{RUN_DATE}}/*.parquet', prompt: prompt}}\n"
        f"output: {{uri: '{tmp_path}/out'}}\n"
        "router: {model: none}\npolicy: {threshold: 0.5}\nmodels: {small: {backend: echo}, large: {backend: echo}}\n"
    )
    ended = by_cron(name, path)
    assert ended.stderr == f"error: input.uri: no file matches {tmp_path}/2026-11-24/*.parquet\n"
    assert ended.returncode == 2


@pytest.mark.parametrize("name", ["batchroute", "batchroute-again", "batchroute-2026", "batchroute-24-11-2026"])
def test_a_job_whose_name_says_no_night_is_wrong_input(name: str, tmp_path: Path) -> None:
    ended = by_cron(name, tmp_path / "job.yaml")
    assert ended.stderr == f"error: the Job's name, {name}, does not end in a date such as -2026-11-24\n"
    assert ended.returncode == 2
