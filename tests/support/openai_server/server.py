"""The server itself: who may ask what, and how its thread runs."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.openai_server import wire
from tests.support.openai_server.api import Api
from tests.support.openai_server.batches import Batches
from tests.support.openai_server.chat import Chat
from tests.support.openai_server.faults import Calls, Fault, Faults, Schedule
from tests.support.openai_server.files import Files
from tests.support.openai_server.records import Records, Seen
from tests.support.openai_server.settings import Settings


class OpenAIServer:
    """Use it as a context manager. `state`: a folder where files, batches and records outlive it. `port` 0: a free
    one. `faults_file`: see `Faults`. The other arguments are those of `Settings`, which may be changed meanwhile.
    """

    def __init__(
        self, state: Path | None = None, port: int = 0, faults_file: Path | None = None, **settings: Any
    ) -> None:
        self.settings = Settings(**settings)
        self.port = port
        self._temporary = None if state is not None else tempfile.TemporaryDirectory()
        folder = state or Path(self._temporary.name if self._temporary is not None else "")
        folder.mkdir(parents=True, exist_ok=True)
        self.records = Records(state)
        self._faults = Faults(faults_file)
        self._files = Files(folder / "files")
        chat = Chat(self.settings)
        self._batches = Batches(folder / "batches", self._files, chat, self._faults, self.records, self.settings)
        self._api = Api(self.settings, chat, self._files, self._batches, self._faults, self.records)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base url for a client."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> list[Seen]:
        return self.records.requests

    @property
    def served(self) -> Counter[str]:
        return self.records.served

    @property
    def submitted(self) -> Counter[str]:
        return self.records.submitted

    @property
    def submitted_ids(self) -> Counter[str]:
        return self.records.submitted_ids

    @property
    def completed(self) -> Counter[str]:
        return self.records.completed

    @property
    def faulted(self) -> Counter[str]:
        return self.records.faulted

    @property
    def max_in_flight(self) -> int:
        return self.records.max_in_flight

    @property
    def faults(self) -> Schedule:
        """Of chat requests: `{"a text of the last user message": ["429", Fault("500", repeat=True)]}`."""
        return self._faults.chat

    @faults.setter
    def faults(self, asked: Mapping[str, Any]) -> None:
        self._faults.chat = Schedule(asked)

    @property
    def batch_faults(self) -> list[list[Fault]]:
        """Each batch created takes the next entry, a fault or a list of faults."""
        return self._faults.batches

    @batch_faults.setter
    def batch_faults(self, entries: list[Any]) -> None:
        self._faults.batches = entries

    @property
    def http_faults(self) -> Calls:
        """Of the calls of the Files and Batch API: `{"create_cut": 1, "poll_500": 2}`."""
        return self._faults.http

    @http_faults.setter
    def http_faults(self, asked: Mapping[str, int]) -> None:
        self._faults.http = Calls(asked)

    def random_fault(self, kind: Any, share: float, seed: int = 0) -> None:
        """Meets a share of the chat requests."""
        self._faults.random_fault(kind, share, seed)

    def clear_faults(self) -> None:
        self._faults.clear()

    def batches(self) -> list[str]:
        """The ids of all batches, oldest first."""
        return self._batches.names()

    def batch(self, name: str) -> dict[str, Any]:
        """A look that does not count as a poll."""
        return self._batches.get(name)

    def files(self) -> list[str]:
        """The ids of the files that are not deleted."""
        return self._files.names()

    def finish(self, batch: str, status: str = "completed") -> dict[str, Any]:
        """Ends a batch now: completed, expired or cancelled."""
        return self._batches.finish(batch, status)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run(ready.set)), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the server does not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()
        self._api.close()
        self.records.close()
        if self._temporary is not None:
            self._temporary.cleanup()
        if self._api.bugs and kind is None:
            raise AssertionError("the test server itself failed:\n" + "\n".join(self._api.bugs))

    async def run(self, ready: Callable[[], None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await wire.listen(self.port, self._api.answer)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await self._stop.wait()
        server.close()
