"""The doctor as a whole: jobs on disk and on a real S3 server, with one thing wrong at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batchroute.cli import app
from batchroute.commands import doctor
from batchroute.commands.doctor import Diagnosis, screen
from batchroute.commands.doctor.finding import Checkup, Finding, note, ok, problem
from batchroute.storage.store import _store
from tests.storage.test_remote import Forgetful
from tests.support.jobs import JobFolder, table
from tests.support.openai_server import OpenAIServer
from tests.support.seaweed import SeaweedFS

KEY = "sk-planted-7c1f0e9ab3"
PASSWORD = "planted-5a1b9c"


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path, table(20))


def of(diagnosis: Diagnosis, subject: str) -> Finding:
    """The finding about a part of the job; there is one."""
    (match,) = [one for one in diagnosis.findings if one.subject == subject and one.group == "job"]
    return match


def api(port: int | str, **settings: Any) -> dict[str, Any]:
    return {"backend": "openai", "model": "m", "endpoint": f"http://127.0.0.1:{port}/v1", **settings}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_job_that_is_well_is_ready_and_nothing_is_left_of_the_look(job: JobFolder) -> None:
    path, before = job.path, sorted(job.folder.rglob("*"))
    diagnosis = doctor.examine(path)
    assert [one for one in diagnosis.findings if one.mark == "problem"] == []
    assert (diagnosis.exit_code, diagnosis.verdict.startswith(f"This machine is ready for {path}")) == (0, True)
    assert of(diagnosis, "input").text == "20 rows in 1 file, prompts are text"
    assert "puts are create-only" in of(diagnosis, "output").text
    assert "in float32" in of(diagnosis, "router").text
    assert of(diagnosis, "processes").text.startswith("--processes auto starts 1 process")
    assert sorted(job.folder.rglob("*")) == before


def test_a_screen_of_forty_lines_holds_a_machine_that_is_well_and_most_that_is_wrong(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job.folder)
    job.settings["output"]["uri"], job.settings["router"]["model"] = "out", "./router"
    _ = job.path
    diagnosis = doctor.examine("job.yaml")
    assert 20 < len(screen.lines(diagnosis.findings, diagnosis.verdict, width=100)) <= 40
    job.settings["input"]["uri"] = "none/*.parquet"
    job.settings["output"]["uri"] = "in.parquet/out"
    job.settings["router"]["model"] = "./absent"
    job.settings["models"] = {"small": {"backend": "vllm", "model": "org/model"}, "large": api(closed_port())}
    # Both need the router, whose own line is enough.
    job.settings["policy"], job.settings["report"] = {"max_quality_drop": "1%"}, {"audit": "1%"}
    _ = job.path
    diagnosis = doctor.examine("job.yaml")
    lines = screen.lines(diagnosis.findings, diagnosis.verdict, width=100)
    wrong = [one for one in diagnosis.findings if one.mark == "problem"]
    assert {one.subject for one in wrong} == {"input", "output", "extras", "router", "small", "large"}
    assert all(one.remedy for one in wrong)
    assert (len(lines) <= 50, max(map(len, lines)) <= 100, diagnosis.exit_code) == (True, True, 2)
    assert diagnosis.verdict == "This machine is not ready for job.yaml: 6 problems to fix first."


def test_a_job_file_that_is_wrong_is_one_problem_next_to_the_machines_lines(tmp_path: Path) -> None:
    diagnosis = doctor.examine(str(tmp_path / "none.yaml"))
    assert of(diagnosis, "file").text == f"cannot read the job file {tmp_path}/none.yaml: No such file or directory"
    assert {"software", "machine", "ranks", "models"} < {one.group for one in diagnosis.findings}


@pytest.mark.parametrize("place", ["a/file/out", "/proc/out"])
def test_an_output_that_cannot_be_written_is_a_problem(job: JobFolder, place: str) -> None:
    (job.folder / "a").mkdir()
    (job.folder / "a" / "file").touch()
    job.settings["output"]["uri"] = place if place.startswith("/") else str(job.folder / place)
    result = of(doctor.examine(job.path), "output")
    assert (result.mark, result.text.startswith("cannot write")) == ("problem", True)
    assert result.remedy


def test_a_storage_without_conditional_puts_is_a_problem_and_with_one_writer_a_note(job: JobFolder) -> None:
    job.settings["output"]["uri"] = "forgetful://base/doctor"
    result = of(doctor.examine(job.path), "output")
    assert (result.mark, "has no create-only puts (If-None-Match)" in result.text) == ("problem", True)
    assert "output.single_writer: true" in result.remedy
    assert of(doctor.examine(job.path, ["output.single_writer=true"]), "output").mark == "note"
    assert not any("doctor" in name for name in Forgetful.store)


def test_a_bucket_is_well_while_its_server_is_up_and_said_at_once_when_it_is_not(
    job: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store.cache_clear()
    with SeaweedFS(tmp_path / "seaweed") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.filesystem().put_file(str(job.input), "bucket/in/a.parquet")
        job.settings["input"]["uri"] = "s3://bucket/in/*.parquet"
        job.settings["output"]["uri"] = "s3://bucket/out"
        diagnosis = doctor.examine(job.path)
        assert of(diagnosis, "input").text == "20 rows in 1 file, prompts are text"
        assert of(diagnosis, "output").text.startswith("s3://bucket/out is writable, and puts are create-only")
        assert not any(".probe" in name for name in server.filesystem().find("bucket"))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
        _store.cache_clear()
        refused = of(doctor.examine(job.path), "output")
        assert refused.mark == "problem"
        assert PASSWORD not in refused.text + refused.remedy
    gone = of(doctor.examine(job.path), "output")
    assert (gone.mark, "cannot be reached: it refuses the connection" in gone.text) == ("problem", True)
    _store.cache_clear()


def test_models_that_are_not_here_are_problems_each_with_its_remedy(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job.settings["models"] = {
        "small": {"backend": "transformers", "model": "embedded:gemma-3-270m"},
        "large": {"backend": "auto", "allow_pickle": True, "model": "org/never-heard-of"},
    }
    diagnosis = doctor.examine(job.path)
    assert of(diagnosis, "small").remedy == "run 'batchroute models fetch gemma-3-270m'"
    auto, large = (one for one in diagnosis.findings if one.subject == "large")
    words = "backend: auto takes transformers: allow_pickle is set, which vLLM does not take"
    assert (auto.mark, auto.text) == ("ok", words)
    assert large.text == "org/never-heard-of: not on this machine, and HF_HUB_OFFLINE is set"
    assert (large.mark, "unset HF_HUB_OFFLINE" in large.remedy) == ("problem", True)
    (embedded,) = [one for one in diagnosis.findings if one.subject == "embedded"]
    assert (embedded.mark, "batchroute models fetch demo" in embedded.remedy) == ("note", True)


def test_a_model_without_weights_and_an_untrained_router_are_problems(job: JobFolder) -> None:
    (job.router / "model.safetensors").unlink()
    result = of(doctor.examine(job.path), "router")
    assert result.text == f"{job.router}: a configuration without weights"
    config = json.loads((job.router / "config.json").read_text())
    (job.router / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    result = of(doctor.examine(job.path), "router")
    assert (result.mark, "is no trained classifier" in result.text) == ("problem", True)
    assert result.remedy.startswith("make one with 'batchroute train")


def test_a_policy_that_needs_a_calibration_says_so_until_there_is_one(job: JobFolder) -> None:
    job.settings["policy"] = {"max_quality_drop": "1%"}
    result = of(doctor.examine(job.path), "policy")
    assert (result.mark, "is not calibrated" in result.text) == ("problem", True)
    job.calibrate()
    assert of(doctor.examine(job.path), "policy").text.startswith("max_quality_drop 1 % (bounded): the router is cal")


def test_an_endpoint_is_connected_to_and_asked_nothing(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", KEY)
    with OpenAIServer(key=KEY) as server:
        job.settings["models"]["large"] = api(0, endpoint=server.url, api_key_env="TEAM_KEY")
        result = of(doctor.examine(job.path), "large")
        assert result.mark == "ok"
        assert result.text.endswith("key in the environment variable TEAM_KEY: a connection can be made")
        assert server.requests == []


def test_an_endpoint_that_does_not_answer_and_a_key_that_is_missing_are_problems(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEAM_KEY", raising=False)
    job.settings["models"] = {"small": api(closed_port()), "large": api(closed_port(), api_key_env="TEAM_KEY")}
    diagnosis = doctor.examine(job.path)
    small = of(diagnosis, "small")
    assert (small.mark, "it refuses the connection" in small.text) == ("problem", True)
    assert of(diagnosis, "large").text == "the model 'm' needs a key"
    assert of(diagnosis, "large").remedy == "set the environment variable TEAM_KEY"


def test_a_warehouse_that_is_not_loaded_is_said_without_the_password(job: JobFolder) -> None:
    job.settings["output"]["table"] = {"warehouse": f"nosuch://me:{PASSWORD}@host/db", "name": "answers"}
    result = of(doctor.examine(job.path), "table")
    assert (result.mark, "tables of nosuch:// are not loaded" in result.text) == ("problem", True)
    assert PASSWORD not in repr(doctor.examine(job.path))


def test_no_secret_is_on_the_screen_even_when_an_error_repeats_it(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("TEAM_KEY", KEY)
    job.settings["input"]["uri"] = f"{job.folder}/{KEY}.parquet"
    job.settings["models"]["large"] = api(
        f"1/{PASSWORD}", endpoint=f"http://me:{PASSWORD}@127.0.0.1:{closed_port()}/v1"
    )
    for options in ([], ["--json"], ["--set", f"policy.threshold={PASSWORD}"]):
        ended = CliRunner().invoke(app, ["doctor", job.path, *options])
        assert ended.exit_code == 2
        # A long path may be broken within it.
        assert "***" in "".join(ended.output.split())
        assert KEY not in ended.output
        assert PASSWORD not in ended.output


def test_the_command_ends_with_the_verdict_and_its_exit_code_and_json_says_the_same(job: JobFolder) -> None:
    ended = CliRunner().invoke(app, ["doctor", job.path])
    assert ended.exit_code == 0
    assert ended.output.splitlines()[-1].startswith("This machine is ready for ")
    assert "\x1b" not in ended.output
    ended = CliRunner().invoke(app, ["doctor", job.path, "--set", "router.model=./absent", "--json"])
    tree = json.loads(ended.output)
    assert (ended.exit_code, tree["well"]) == (2, False)
    assert {"subject", "text", "mark", "remedy", "group"} == tree["findings"][0].keys()
    assert [one["subject"] for one in tree["findings"] if one["mark"] == "problem"] == ["router"]
    assert {one["mark"] for one in tree["findings"]} <= {"well", "note", "problem"}


def test_with_a_hub_that_cannot_be_reached_a_missing_model_is_a_problem_and_the_machine_is_not(
    job: JobFolder, tmp_path: Path
) -> None:
    job.settings["models"]["small"] = {"backend": "transformers", "model": "org/model"}
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}", "HF_HOME": str(tmp_path / "hub")}
    environment = {**os.environ, **hub, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "batchroute", "doctor", job.path, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    result = {one["subject"]: one for one in json.loads(ended.stdout)["findings"]}
    assert (ended.returncode, result["hub"]["mark"], result["small"]["mark"]) == (2, "note", "problem")
    assert "the hub cannot be reached" in result["small"]["text"]


def test_a_checkup_that_raises_or_never_ends_is_a_line_of_its_own() -> None:
    def broken() -> Finding:
        raise KeyError("x")

    never = threading.Event()

    def endless() -> Finding:
        never.wait()
        return ok("never", "said")

    checkups = [
        Checkup("a", "broken", broken, "fix it"),
        Checkup("a", "endless", endless, "end it", bounded=True, seconds=0.05),
        Checkup("b", "ok", lambda: ok("ok", "as it should be"), ""),
    ]
    assert doctor._all(iter(checkups)) == [
        Finding("broken", "it could not be checked: KeyError: 'x'", "problem", "fix it", "a"),
        Finding("endless", "no answer within 0.05 s", "problem", "end it", "a"),
        Finding("ok", "as it should be", "ok", "", "b"),
    ]
    never.set()


def test_colours_change_nothing_but_colours() -> None:
    import click

    findings = [ok("a", "one " * 40), note("b", "two", "do so"), problem("c", "three", "fix it " * 20)]
    plain = screen.lines(findings, "end", width=60)
    coloured = screen.lines(findings, "end", width=60, colour=True)
    assert coloured != plain
    assert [click.unstyle(line) for line in coloured] == plain
