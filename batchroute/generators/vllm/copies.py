"""One copy of a model on vLLM: a worker, which is started again if it dies, and the rows that killed it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.vllm.messages import Message, Row
from batchroute.generators.vllm.process import Worker

_HARMLESS = Row(-1, "Hello", 0)


class Copy:
    """One copy of the model. If its worker dies, the next call of `answer` starts another.

    Attributes:
        about: the versions of vLLM and of what it computes with.
        loading_again: seconds that starts after the first have taken.
    """

    def __init__(self, model: str, start_worker: Callable[[], Worker], note: Callable[[str], None]) -> None:
        """
        Args:
            note: takes a sentence for the operator about each start after the first.
        """
        self._model, self._start_worker, self._note = model, start_worker, note
        self.about = ""
        self.loading_again = 0.0
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._died_of = ""
        self._ending = 0.0

    def start(self) -> Worker:
        """Start the worker and wait until the model is loaded.

        Raises:
            InputError: vLLM cannot load the model.
            StoppedError: a process of vLLM was killed, or the copy was closed meanwhile.
        """
        with self._lock:
            self._refuse_if_closed()
            worker = self._worker = self._start_worker()
        try:
            message = worker.receive()
        except EOFError:
            message = Message("not loaded")
        if message.what == "loaded":
            self.about = message.about
            return worker
        worker.stop()
        self._refuse_if_closed()
        if message.of_input:
            raise InputError(message.error)
        # vLLM's error for a failure in one of its own processes only points to the root cause in the log.
        error = (None if "root cause" in message.error else message.error) or worker.last_error()
        if not error and worker.killed:
            raise StoppedError(
                f"vLLM was killed while it loaded the model '{self._model}': {worker.ending()}; see that it has the "
                "memory, and run again"
            )
        raise InputError(f"cannot load the model '{self._model}' with vLLM: {error or worker.ending()}")

    def answer(self, rows: list[Row]) -> dict[int, Response]:
        """A response to each of `rows`, by its index.

        Raises:
            StoppedError: vLLM died three times in a row without an answer, or the copy was closed meanwhile.
        """
        answers: dict[int, Response] = {}
        # Groups of rows, each with whether it gets a second try as a whole: its rows may not have killed vLLM.
        groups = deque([(rows, True)])
        deaths = 0
        while groups:
            group, once_more = groups.popleft()
            answered = len(answers)
            if self._ask(group, answers):
                deaths = 0
                continue
            deaths = 1 if len(answers) > answered else deaths + 1
            left = [row for row in group if row.index not in answers]
            if deaths == 2:
                self._ask_something_harmless()
                deaths = 0
            if not left:
                continue
            if once_more or len(left) < len(group):
                groups.appendleft((left, False))
            elif len(left) == 1:
                answers[left[0].index] = Response(error_type="model_error", error=f"vLLM died of it: {self._died_of}")
            else:
                middle = len(left) // 2
                groups += [(left[:middle], False), (left[middle:], False)]
        return answers

    def close(self) -> None:
        with self._lock:
            self._closed = True
        # Read once: the thread in `_ask` may set it to None at this moment.
        worker = self._worker
        if worker is not None:
            worker.stop()

    def _ask(self, rows: list[Row], answers: dict[int, Response]) -> bool:
        """Send `rows` to the worker, and add its answers to `answers`. Returns False if vLLM died."""
        worker = self._worker or self._start_again()
        try:
            worker.send(rows)
            while (message := worker.receive()).what == "answers":
                answers |= message.answers
        except EOFError:
            message = Message("dead")
        self._refuse_if_closed()
        if message.what == "done":
            return True
        started = time.perf_counter()
        worker.stop()
        self._worker = None
        self._died_of = worker.last_error(rows) or worker.ending()
        self._ending = time.perf_counter() - started
        return False

    def _start_again(self) -> Worker:
        started = time.perf_counter()
        try:
            worker = self.start()
        except InputError as error:
            raise StoppedError(f"vLLM died, and then: {error}; fix it and run again") from error
        finally:
            seconds = time.perf_counter() - started + self._ending
            self.loading_again += seconds
        self._note(f"vLLM died: {self._died_of}; it was started again in {seconds:.0f} s, which count as loading")
        return worker

    def _ask_something_harmless(self) -> None:
        """Find out whether only some rows kill vLLM, or any.

        Raises:
            StoppedError: any row does.
        """
        if not self._ask([_HARMLESS], {}):
            raise StoppedError(
                f"vLLM died three times in a row on the model '{self._model}', without an answer: {self._died_of}; "
                "fix it and run again"
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoppedError(f"the model '{self._model}' was closed")
