"""Unexpected errors: exit code 70, one line for the operator, and a traceback without the words of rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from batchroute import cli, crash
from batchroute.commands import run as command
from batchroute.errors import EXIT_CLOSED, EXIT_CRASHED, CrashedError, error_of
from tests.support.jobs import JobFolder

PROMPT = "my pension number is 4711"


class PanicException(BaseException):
    """As a library in Rust raises."""


def raised(error: BaseException) -> BaseException:
    prompt = PROMPT  # noqa: F841, a local variable that must not be shown
    try:
        raise error
    except BaseException as caught:
        return caught


def run_in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, *options: str) -> int:
    def end(*arguments: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(command, "run_job", end)
    monkeypatch.setattr("sys.argv", ["batchroute", "run", JobFolder(tmp_path).path, *options])
    return cli.command()


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"could not convert string to float: '{PROMPT}'"),
        EOFError(PROMPT),
        BrokenPipeError(32, "Broken pipe"),
        SystemExit(PROMPT),
        SystemExit(1),
        PanicException(PROMPT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unexpected_error_is_exit_code_70_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert run_in_process(monkeypatch, tmp_path, error) == EXIT_CRASHED == 70
    said = capsys.readouterr().err
    first, second = said[said.index("error: ") :].splitlines()[:2]
    assert first == (
        f"error: unexpected {type(error).__name__} in batchroute/commands/run.py line {_line_of_the_call()}; its "
        "traceback is below. Nothing that was done is lost: run again to go on; if it comes again, report it with the "
        "traceback"
    )
    assert second == "Traceback (most recent call last):"
    assert PROMPT not in said


def _line_of_the_call() -> int:
    lines = Path(command.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "outcome = run_job(" in line)


def test_json_logs_hold_the_traceback_as_a_field(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(monkeypatch, tmp_path, ValueError(PROMPT), "--json-logs") == 70
    said = capsys.readouterr().err
    record = json.loads(said.splitlines()[-1])
    assert (record["event"], record["exit_code"]) == ("crashed", 70)
    assert "unexpected ValueError in batchroute/commands/run.py" in record["message"]
    assert record["traceback"].startswith("Traceback (most recent call last):\n")
    assert PROMPT not in said


def test_words_are_shown_if_python_worded_them_or_the_user_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crash.trace(raised(AttributeError("no attribute 'x'"))).endswith("AttributeError: no attribute 'x'")
    assert crash.trace(raised(OSError(28, "No space left on device", PROMPT))).endswith("No space left on device")
    hint = "KeyError (its words may quote a row; BATCHROUTE_TRACEBACK=full shows them)"
    assert crash.trace(raised(KeyError(PROMPT))).endswith(hint)
    monkeypatch.setenv("BATCHROUTE_TRACEBACK", "full")
    assert PROMPT in crash.trace(raised(KeyError(PROMPT)))


def test_the_errors_that_led_to_it_are_traced_too() -> None:
    error = raised(RuntimeError(PROMPT))
    error.__cause__ = raised(ValueError(PROMPT))
    error.__cause__.__context__ = error  # a circle, as libraries make them
    trace = crash.trace(error)
    assert trace.index("ValueError (its") < trace.index("The error above led to this one") < trace.index("RuntimeError")
    assert PROMPT not in trace


def test_another_process_that_crashed_is_a_crash_here() -> None:
    error = error_of(70, "a worker of small: unexpected KeyError", "Traceback of the worker")
    assert isinstance(error, CrashedError)
    assert crash.report(error) == "a worker of small: unexpected KeyError\nTraceback of the worker"
    assert crash.report(error_of(70, "rank 1 of 2: unexpected KeyError")) == "rank 1 of 2: unexpected KeyError"


def test_a_thread_that_ends_by_an_error_does_not_quote_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end() -> NoReturn:
        raise ValueError(PROMPT)

    monkeypatch.setattr("sys.argv", ["batchroute", "--version"])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert cli.command() == 0
    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert "warning: a thread ended: unexpected ValueError" in said
    assert PROMPT not in said


@pytest.mark.parametrize("command", [["--version"], ["models", "list"]], ids=["plain", "rich"])
def test_a_reader_that_closes_the_output_ends_it_without_a_word(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    script = "from batchroute import cli; cli.main()"
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", script, *command], stdout=out, stderr=subprocess.PIPE, env=os.environ, check=False
        )
    assert (done.returncode, done.stderr) == (EXIT_CLOSED, b"")
