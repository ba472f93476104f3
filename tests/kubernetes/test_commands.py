"""The job file and the commands of the manifests are ones that batchroute takes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
import yaml

from batchroute import cli
from batchroute.config import loading
from tests.kubernetes.overlays import OVERLAYS, build, one, settings, templates
from tests.kubernetes.pods import USER, Node, Pod
from tests.support.jobs import JobFolder, table

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


def test_the_night_is_read_from_the_name_that_a_person_gave(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"input: {{uri: '{tmp_path}/${{RUN_DATE}}/*.parquet', prompt: prompt}}\n"
        f"output: {{uri: '{tmp_path}/out'}}\n"
        "router: {model: none}\npolicy: {threshold: 0.5}\nmodels: {small: {backend: echo}, large: {backend: echo}}\n"
    )
    ended = by_cron("batchroute-2026-11-24", path)
    assert ended.stderr == f"error: input.uri: no file matches {tmp_path}/2026-11-24/*.parquet\n"
    assert ended.returncode == 2


def test_the_pod_of_the_schedule_runs_its_night(tmp_path: Path) -> None:
    """The whole command as the cluster starts it, in a root that cannot be written, by a user without a home."""
    cache, config = tmp_path / "cache", tmp_path / "config"
    job = JobFolder(cache_of(cache), table(40))
    job.settings["input"]["uri"] = "/cache/prompts/${RUN_DATE}.parquet"
    job.settings["output"]["uri"] = "/cache/answers/${RUN_DATE}"
    job.settings["router"]["model"] = "/cache/router"
    (cache / "prompts").mkdir()
    job.input.rename(cache / "prompts" / "2026-11-24.parquet")
    config.mkdir()
    (config / "nightly.yaml").write_text(yaml.safe_dump(job.settings))
    (template,) = templates("cronjob")
    # Minutes since 1970, as the schedule names a Job.
    given = {
        "JOB_NAME": f"batchroute-{int(LAST_MINUTE.timestamp()) // 60}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    node = Node(tmp_path / "pod" / "root", {"/cache": cache, "/etc/batchroute": config})
    pod = Pod(template, node, given)
    entering = pod.entering(functools.partial(check_inside, str(tmp_path)))
    ended = subprocess.run(
        pod.words, env=pod.environment, preexec_fn=entering, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    *_, last = (json.loads(line) for line in ended.stderr.splitlines())
    assert (last["event"], last["output"]) == ("done", "/cache/answers/2026-11-24")
    written = cache / "answers" / "2026-11-24"
    assert sum(pq.read_metadata(part).num_rows for part in (written / "data").iterdir()) == 40
    # The pictures of the report need fonts, and a folder to keep what is found of them.
    assert "<svg" in (written / "report" / "report.html").read_text()


def cache_of(folder: Path) -> Path:
    folder.mkdir()
    return folder


def check_inside(outside: str) -> None:
    """Raises an error where the pod is not what its manifest says."""
    status = Path("/proc/self/status").read_text()
    if os.getuid() != USER or "CapEff:\t0000000000000000\n" not in status or "NoNewPrivs:\t1\n" not in status:
        raise OSError("the pod has rights")
    if os.path.exists(outside):
        raise OSError("the pod sees more than its volumes")
    for folder in ("/", "/usr", "/work", "/etc/batchroute", sys.prefix):
        with contextlib.suppress(OSError):
            Path(folder, "written").touch()
            raise SystemExit(f"the pod can write to {folder}")
    Path("/cache/written").touch()
    Path("/tmp/written").touch()


@pytest.mark.parametrize("name", ["batchroute", "batchroute-again", "batchroute-2026", "batchroute-24-11-2026"])
def test_a_job_whose_name_says_no_night_is_wrong_input(name: str, tmp_path: Path) -> None:
    ended = by_cron(name, tmp_path / "job.yaml")
    assert ended.stderr == f"error: the Job's name, {name}, does not end in a date such as -2026-11-24\n"
    assert ended.returncode == 2
