from __future__ import annotations

import http.server
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from prometheus_client import parser

from batchroute import cli
from batchroute.commands import run as command
from batchroute.errors import CrashedError, InputError, StoppedError, Terminated, WaitingError
from batchroute.pipeline.commit import Outcome
from batchroute.reports.export import metrics, notify
from batchroute.reports.export.notify import NotifySpec
from batchroute.reports.export.posting import Retries
from batchroute.reports.headline import headline
from tests.reports import nights
from tests.support.jobs import JobFolder, table

SECRET = "T0PLANTED-4be1c7/x9-planted-5d"
QUERY = "sig=planted-3f8a"
SOON = Retries(first_wait=0.01)
RECORD = {"event": "done", "message": "All went well.", "exit_code": 0, "job_name": "nightly"}


class Hook(http.server.ThreadingHTTPServer):
    """A server that records its requests and answers with `statuses` in order, repeating the last."""

    daemon_threads = True

    def __init__(self, *statuses: int, location: str = "", pause: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.location, self.pause = list(statuses), location, pause
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/services/{SECRET}?{QUERY}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for *_, body in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        time.sleep(self.server.pause)
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook(200) as found:
        yield found
        found.shutdown()


def spec(url: str, **settings: Any) -> NotifySpec:
    return NotifySpec.model_validate({"url": url, **settings})


def send(url: str, event: notify.Event = "done", retries: Retries = SOON, **settings: Any) -> list[str]:
    return notify.send(spec(url, **settings), event, {**RECORD, "event": event}, retries)


def test_a_hook_gets_the_record_as_json(hook: Hook) -> None:
    assert send(hook.url) == []
    ((method, path, headers, body),) = hook.asked
    assert (method, path) == ("POST", f"/services/{SECRET}?{QUERY}")
    assert headers["Content-Type"] == "application/json"
    sent = json.loads(body)
    assert {key: sent[key] for key in RECORD} == RECORD
    assert sent["text"] == "nightly: All went well."
    assert sent["time"].endswith("Z")


def test_user_and_password_are_sent_as_a_header(hook: Hook) -> None:
    assert send(f"http://ops:p%40ss@{hook.host}/x") == []
    ((_, path, headers, _),) = hook.asked
    assert (path, headers["Authorization"]) == ("/x", "Basic b3BzOnBAc3M=")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hook_that_fails_twice_is_called_again(status: int) -> None:
    with Hook(status, status, 200) as hook:
        assert send(hook.url) == []
        assert len(hook.asked) == 3
        hook.shutdown()


def test_a_hook_that_keeps_failing_is_one_warning_that_names_its_host_alone() -> None:
    with Hook(500) as hook:
        assert send(hook.url) == [f"{hook.host} did not take the notification: HTTP 500"]
        assert len(hook.asked) == 4
        hook.shutdown()


def test_a_refusal_is_not_retried() -> None:
    with Hook(404) as hook:
        assert send(hook.url) == [f"{hook.host} did not take the notification: HTTP 404"]
        assert len(hook.asked) == 1
        hook.shutdown()


def test_a_hook_that_hangs_is_given_up_in_time() -> None:
    with Hook(200, pause=2.0) as hook:
        started = time.monotonic()
        assert send(hook.url, retries=Retries(first_wait=0.01, one=0.1, all=0.15)) == [
            f"{hook.host} did not take the notification: no answer in time"
        ]
        assert time.monotonic() - started < 1.5
        assert len(hook.asked) == 2
        hook.shutdown()


def test_after_a_signal_a_hook_is_called_once() -> None:
    with Hook(500) as hook:
        assert send(hook.url, "terminated")
        assert len(hook.asked) == 1
        hook.shutdown()


def test_the_waits_end_within_half_a_minute() -> None:
    retries = Retries()
    waits = sum(min(2**n, 4) for n in range(retries.attempts - 1))
    # The last attempt begins before the limit of all and its wait, and takes as long as one may.
    assert min(waits, retries.all) + retries.one <= 32
    assert retries.all + 4 + retries.one <= 32


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(hook: Hook, status: int) -> None:
    with Hook(status, location=hook.url) as leading:
        (warning,) = send(leading.url)
        assert warning == (
            f"{leading.host} did not take the notification: HTTP {status}, a redirect, which is not followed"
        )
        leading.shutdown()
    assert hook.asked == []


def test_no_server_is_a_warning_without_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (warning,) = send(f"http://127.0.0.1:{port}/{SECRET}")
    assert warning == f"127.0.0.1:{port} did not take the notification: Connection refused"


def test_a_server_that_speaks_no_http_is_a_warning_without_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-nonsense\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        (warning,) = send(f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}")
    assert "did not take the notification: BadStatusLine" in warning
    assert SECRET not in warning


def test_by_default_a_hook_gets_all_ends_but_nothing_and_waiting(hook: Hook) -> None:
    for event in get_args(notify.Event):
        send(hook.url, event)
    assert [body["event"] for body in hook.bodies] == [
        "done", "failed", "error", "stopped", "crashed", "interrupted", "terminated",
    ]  # fmt: skip


def test_a_hook_gets_the_ends_of_its_setting_on(hook: Hook) -> None:
    for event in get_args(notify.Event):
        send(hook.url, event, on=["waiting", "stopped"])
    assert [body["event"] for body in hook.bodies] == ["stopped", "waiting"]


@pytest.mark.parametrize(
    ("error", "event", "exit_code"),
    [
        (InputError("i"), "error", 2),
        (StoppedError("s"), "stopped", 3),
        (WaitingError("w"), "waiting", 4),
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(), "terminated", 143),
        (ZeroDivisionError("a prompt's words"), "crashed", 70),
        (CrashedError("rank 1 of 2"), "crashed", 70),
    ],
)
def test_every_exception_has_its_end(error: BaseException, event: str, exit_code: int) -> None:
    found = notify.ending(error)
    assert found[:2] == (event, exit_code)
    assert "a prompt's words" not in found[2]


@pytest.mark.parametrize(
    "url",
    ["", "  ", 7, [SECRET], f"hooks.example.com/{SECRET}", f"file:///{SECRET}", f"https://a b/{SECRET}",
     f"https://x:port/{SECRET}", f"https:///{SECRET}", f"https://x/{SECRET}é", f"https://x/{SECRET}\n/y"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["url", "pushgateway"])
def test_a_malformed_address_is_one_sentence_that_does_not_repeat_it(tmp_path: Path, key: str, url: Any) -> None:
    folder = JobFolder(tmp_path, notify={key: url})
    with pytest.raises(InputError, match=rf"notify\.{key}: it is (empty or not text|not a URL)") as caught:
        folder.load()
    assert SECRET not in str(caught.value)


def test_the_text_of_a_job_holds_no_address(tmp_path: Path) -> None:
    found = JobFolder(tmp_path, notify={"url": f"https://x/{SECRET}", "pushgateway": f"https://y/{SECRET}"}).load()
    for text in (repr(found), str(found), found.model_dump_json(), str(found.model_dump())):
        assert SECRET not in text


def test_the_metrics_are_a_whole_file_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "nightly.prom"
    path.write_text("old")
    assert notify.publish(NotifySpec(metrics=str(path)), nights.full()) == []
    names = {family.name for family in parser.text_string_to_metric_families(path.read_text())}
    assert "batchroute_cost_usd" in names
    assert path.stat().st_mode & stat.S_IROTH
    assert [found.name for found in tmp_path.iterdir()] == ["nightly.prom"]


def test_a_metrics_file_that_cannot_be_written_is_a_warning_and_leaves_nothing(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "not" / "there.prom", "No such file or directory"), (tmp_path, "Is a directory")):
        warnings = notify.publish(NotifySpec(metrics=str(path)), nights.full())
        assert warnings == [f"cannot write the metrics to {path}: {reason}"]
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob(".*.tmp"))


def test_the_metrics_are_pushed_under_the_jobs_name(hook: Hook) -> None:
    gateway = f"http://ops:secret@{hook.host}/gate/"
    assert notify.publish(NotifySpec.model_validate({"pushgateway": gateway}), nights.full()) == []
    ((method, path, headers, body),) = hook.asked
    assert (method, path) == ("PUT", "/gate/metrics/job/nightly-support")
    assert headers["Authorization"].startswith("Basic ")
    samples = [s for family in parser.text_string_to_metric_families(body.decode()) for s in family.samples]
    assert {sample.value for sample in samples if sample.name == "batchroute_cost_usd"} == {84.10249}


def test_a_gateway_that_fails_is_a_warning() -> None:
    with Hook(500, 400) as hook:
        spec = NotifySpec.model_validate({"pushgateway": f"http://{hook.host}"})
        assert notify.publish(spec, nights.full(), SOON) == [f"{hook.host} did not take the metrics: HTTP 400"]
        assert len(hook.asked) == 2
        hook.shutdown()


class Runs:
    """Runs of the command in this process, and all their output."""

    def __init__(self, folder: JobFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.said = ""
        self.err: list[str] = []
        self.out: list[str] = []

    def __call__(self, *arguments: str) -> int:
        self._monkeypatch.setattr("sys.argv", ["batchroute", "run", self._folder.path, *arguments])
        code = cli.command()
        out, err = self._capsys.readouterr()
        self.said += out + err
        self.out, self.err = out.splitlines(), err.splitlines()
        return code

    @property
    def record(self) -> dict[str, Any]:
        """The last line of the JSON log, without its time."""
        found = dict(json.loads(self.err[-1]))
        found.pop("time")
        return found


@pytest.fixture
def runs(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.setenv("HOOK", hook.url)
    usable = pl.when(pl.col("id") != "row-3").then("prompt")
    folder = JobFolder(
        tmp_path,
        table(30).with_columns(usable.alias("prompt")),
        notify={"url": "${HOOK}", "metrics": str(tmp_path / "test.prom")},
        max_failed="10%",
    )
    return Runs(folder, monkeypatch, capsys)


def search(folder: Path, said: str) -> None:
    """Assert that no part of the address is in a file or in the output."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    parts = [SECRET, *SECRET.split("/"), QUERY]
    for path in files:
        text = path.read_bytes().decode(errors="replace")
        if path.suffix == ".parquet":
            text += str(pl.read_parquet(path).rows())
        assert not [part for part in parts if part in text], path
    assert not [part for part in parts if part in said]


def sent(hook: Hook) -> dict[str, Any]:
    """The last body that the hook got, without the keys for the hook alone."""
    return {key: value for key, value in hook.bodies[-1].items() if key not in ("text", "time")}


def test_the_last_line_of_the_log_is_what_the_hook_is_sent(runs: Runs, hook: Hook) -> None:
    assert runs("--json-logs") == 0
    assert runs.record == sent(hook)
    assert runs.record["event"] == "done"
    assert runs.record["exit_code"] == 0
    assert runs.record["rows"]["failed"] == 1
    assert runs.record["failures"] == {"null_prompt": 1}
    assert float(runs.record["total_cost"]) > 0
    assert {"output", "run", "savings", "missing_prices", "baseline_cost", "cost_advantage"} <= runs.record.keys()
    small = runs.record["models"]["small"]
    assert small["gen_ai.request.model"] == "echo-small"
    assert small["gen_ai.usage.input_tokens"] > 0


def test_a_second_run_does_not_notify_and_says_that_there_is_nothing_to_do(runs: Runs, hook: Hook) -> None:
    assert runs() == 0
    assert len(hook.asked) == 1
    assert runs("--json-logs") == 0
    assert runs.record["event"] == "nothing"
    assert runs.record["message"].startswith("nothing to do: run ")
    assert len(hook.asked) == 1


def test_too_many_failed_rows_notify(runs: Runs, hook: Hook) -> None:
    assert runs("--set", "max_failed=0%") == 1
    assert (sent(hook)["event"], sent(hook)["exit_code"]) == ("failed", 1)


def test_a_wrong_setting_notifies_once_the_job_file_is_read(runs: Runs, hook: Hook) -> None:
    assert runs("--json-logs", "--set", "input.prompt=nowhere") == 2
    assert runs.record == sent(hook)
    assert (runs.record["event"], runs.record["job_name"]) == ("error", "test")
    assert "nowhere" in runs.record["message"]
    assert runs("--json-logs", "--set", "policy.treshold=1") == 2
    assert runs.record["event"] == "error"
    assert len(hook.asked) == 1


def test_a_stopped_run_notifies(runs: Runs, hook: Hook) -> None:
    assert runs("--set", "max_tokens=5") == 3
    assert (sent(hook)["event"], sent(hook)["exit_code"]) == ("stopped", 3)


@pytest.mark.parametrize(("error", "event", "exit_code"), [(Terminated, "terminated", 143), (OSError, "crashed", 70)])
def test_a_terminated_or_crashed_run_notifies(
    runs: Runs, hook: Hook, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], event: str, exit_code: int
) -> None:
    def end(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(command, "run_job", end)
    assert runs("--json-logs") == exit_code
    record = runs.record
    assert ("traceback" in record) == (event == "crashed")
    record.pop("traceback", None)
    assert record == sent(hook)
    assert (sent(hook)["event"], sent(hook)["exit_code"]) == (event, exit_code)


def test_a_hook_that_fails_changes_neither_the_exit_code_nor_the_last_line(runs: Runs, hook: Hook) -> None:
    hook.statuses = [404]
    assert runs("--json-logs") == 0
    *_, warning, last = map(json.loads, runs.err)
    assert (warning["event"], last["event"]) == ("notify", "done")
    assert warning["message"] == f"{hook.host} did not take the notification: HTTP 404"


def test_the_last_line_on_the_console_is_one_sentence(runs: Runs) -> None:
    assert runs() == 0
    last = runs.out[-1]
    assert last.endswith(".")
    assert "$" in last


def test_a_night_with_a_report_gives_a_headline_and_metrics(
    tmp_path: Path, runs: Runs, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, run = nights.full(), command.run_job

    def run_with_report(*arguments: Any) -> Outcome:
        outcome = run(*arguments)
        object.__setattr__(outcome, "night", night)
        return outcome

    monkeypatch.setattr(command, "run_job", run_with_report)
    assert runs() == 0
    assert runs.out[-1] == headline(night)
    assert (tmp_path / "test.prom").read_text() == metrics.render(night)
    assert sent(hook)["message"] == headline(night)
    assert sent(hook)["expected_drop"] == {"value": 0.6, "low": pytest.approx(0.1), "high": pytest.approx(1.2)}
    assert sent(hook)["audited_drop"] == {"value": 0.8, "low": 0.2, "high": 1.4}
    assert sent(hook)["drifted"] == ["score", "length"]


def test_no_file_and_no_line_holds_the_address(tmp_path: Path, runs: Runs, hook: Hook) -> None:
    assert runs("--json-logs") == 0
    hook.statuses, hook.location = [302], f"http://{hook.host}/{SECRET}"
    runs("--fresh")
    hook.statuses = [404]
    runs("--fresh", "--set", "max_failed=0%")
    runs("--set", "max_tokens=5", "--fresh")
    runs("--set", "input.prompt=nowhere")
    assert "did not take the notification" in runs.said
    search(tmp_path, runs.said)


def test_another_hook_does_not_change_the_run(runs: Runs, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs() == 0
    monkeypatch.setenv("HOOK", f"http://{hook.host}/another")
    assert runs() == 0
    assert "nothing to do" in "".join(runs.err)
