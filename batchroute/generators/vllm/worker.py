"""The vLLM worker: a process with one copy of a model on vLLM, which answers rows that arrive over a pipe.

When the pipe closes, for example because the parent died, the worker ends itself and vLLM's processes.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from batchroute.errors import InputError
from batchroute.generators.vllm.messages import Load, Message
from batchroute.generators.vllm.model import EngineDiedError, VllmModel, in_a_line, unknown_argument

# Seconds for vLLM's processes to end after SIGTERM; vLLM itself gives them 5.
_GRACE = 6.0


def main() -> None:
    """Serve the pipe whose descriptor is the first argument, until it closes or vLLM dies."""
    # A handler instead of SIG_IGN: programs that vLLM starts would inherit SIG_IGN, and no signal could end them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_it_to_the_parent)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    inbox = _inbox(connection)
    try:
        load = inbox.get()
        if load is not None:
            _serve(load, inbox, connection.send)
    except BrokenPipeError:
        pass


def _serve(load: Load, inbox: queue.SimpleQueue[Any], send: Callable[[Message], None]) -> None:
    try:
        model = VllmModel(load)
    except InputError as error:
        return send(Message("not loaded", error=str(error), of_input=True))
    except Exception as error:
        return send(Message("not loaded", error=unknown_argument(load, error) or in_a_line(error)))
    send(Message("loaded", about=model.about))
    for rows in iter(inbox.get, None):
        try:
            model.answer(rows, lambda answers: send(Message("answers", answers)))
        except EngineDiedError:
            return send(Message("dead"))
        send(Message("done"))
    return None


def _leave_it_to_the_parent(signum: int, frame: FrameType | None) -> None:
    pass


def _inbox(connection: Connection) -> queue.SimpleQueue[Any]:
    """What arrives on the pipe, and None once it is closed. A thread reads it, since vLLM may work for hours."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                inbox.put(connection.recv())
        except (EOFError, OSError):
            inbox.put(None)
        _end_group(signal.SIGTERM)
        time.sleep(_GRACE)
        _end_group(signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    return inbox


def _end_group(signum: int) -> None:
    # The worker leads a process group with vLLM's processes in it. If it does not, the group is another program's.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signum)
