"""Ranks that batchroute's launcher forks instead of starting them, which saves each of them the seconds of its imports.

torch's agent stays as it is: it watches, signals and waits for these processes as for its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_POLL_SECONDS = 0.02
_SHOWN = ("RANK", "OMP_NUM_THREADS")


def fork_ranks(register: Path) -> None:
    """To be called in a process that is about to be a launcher.

    Args:
        register: a folder that gets a file for each rank: its name is the process id, its content some variables.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    # The tests set it for their own sake; a launcher is to divide the cores.
    os.environ.pop("OMP_NUM_THREADS", None)
    register.mkdir(exist_ok=True)

    def popen(self: Any, args: Sequence[str], env: Mapping[str, str]) -> _Forked:
        return _Forked(args, env, register)

    subprocess_handler.SubprocessHandler._popen = popen  # type: ignore[assignment]


def registered(register: Path) -> dict[int, dict[str, str]]:
    """The variables of each rank that was forked, by its process id."""
    files = register.glob("*.json") if register.is_dir() else ()
    return {int(file.stem): json.loads(file.read_text()) for file in files}


class _Forked:
    """As much of `subprocess.Popen` as torch's agent uses."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], register: Path) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_rank(args, env, register)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a rank", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be_rank(args: Sequence[str], env: Mapping[str, str], register: Path) -> NoReturn:
    code: object = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        written = register / f"{os.getpid()}.new"
        written.write_text(json.dumps({name: env[name] for name in _SHOWN}))
        written.rename(written.with_suffix(".json"))
        python, option, module, *words = args
        assert (python, option, module) == (sys.executable, "-m", "batchroute")
        sys.argv = ["batchroute", *words]
        from batchroute import cli

        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
