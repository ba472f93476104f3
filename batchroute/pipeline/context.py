"""The context: the job, the frozen input and the work folder that every stage is given."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from batchroute.config.job import Job
from batchroute.costs.price_lists import Resolved
from batchroute.costs.prices import Price
from batchroute.engines.base import Engine
from batchroute.errors import InputError
from batchroute.pipeline import layout
from batchroute.storage.folder import Folder
from batchroute.storage.objects import folder_at
from batchroute.storage.receipts import FORMAT_VERSION
from batchroute.storage.units import Span, span_at, spans
from batchroute.storage.workdir import Workdir
from batchroute.tables.files import Files, InputFile
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import PromptKind, Prompts


class Snapshot(BaseModel):
    """A frozen input and the unit bounds over it: `run.json`."""

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    run_id: str
    fingerprint: str
    settings: dict[str, Any]
    source: dict[str, Any] = {}
    """The query or table that was fetched, and its version; empty where files are read in place."""
    files: list[InputFile]
    rows: int
    prompt_kind: PromptKind
    chunk_rows: int
    unit_rows: int
    part_rows: int
    prices: dict[str, Resolved]
    """Of `router`, `small` and `large`, as they were when the run began: price lists may change before it ends."""

    def price(self, name: str) -> Price | None:
        return self.prices[name].price

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the input's files, on average."""
        return sum(file.bytes for file in self.files) // max(1, self.rows)

    def chunks(self) -> list[Span]:
        """The units of scoring."""
        return spans(self.rows, self.chunk_rows)

    def parts(self) -> list[Span]:
        """The units of merging, whole chunks each. Without any rows there is one empty part, which holds the schema."""
        return spans(self.rows, self.part_rows) or [Span("00000", 0, 0)]

    def chunks_within(self, part: Span) -> Iterator[Span]:
        starts = range(part.start, part.stop, self.chunk_rows)
        return (span_at(start // self.chunk_rows, start, self.chunk_rows, self.rows) for start in starts)


def output_folder(job: Job) -> Folder:
    """The folder of `output.uri`.

    Raises:
        InputError: it is a file.
    """
    output = folder_at(job.output.uri, job.output.storage_options, job.output.single_writer)
    if output.is_file():
        raise InputError(f"output.uri {output} is a file; name a folder")
    return output


@dataclass(frozen=True)
class Context:
    """A run in progress, in this process."""

    job: Job
    snapshot: Snapshot
    table: PromptTable
    work: Workdir
    engine: Engine

    @functools.cached_property
    def prompts(self) -> Prompts:
        spec, kind = self.job.input, self.snapshot.prompt_kind
        return Prompts.of(spec.prompt, self.table, kind, unsupported=spec.unsupported)

    def elsewhere(self) -> Callable[[Engine], Context]:
        return functools.partial(join, self.job, self.work.run_id)


def join(job: Job, run_id: str, engine: Engine) -> Context:
    """Join a run that another process has begun, by its work folder alone.

    Raises:
        InputError: this machine does not see the work folder.
    """
    work = Workdir(output_folder(job), run_id)
    begun = work.read_json(layout.RUN)
    if begun is None:
        raise InputError(
            f"{socket.gethostname()} does not see {work.folder}: all machines of a run need the same "
            "output.uri, in a bucket or on a disk that they share"
        )
    snapshot = Snapshot.model_validate(begun)
    return Context(job, snapshot, PromptTable.open(snapshot.files, files_of(job, snapshot, work)), work, engine)


def files_of(job: Job, snapshot: Snapshot, work: Workdir) -> Files:
    """The files that hold a run's rows: the input itself, or the files that the input was fetched into."""
    if not snapshot.source:
        return Files(job.input.uri, job.input.storage_options)
    return fetched_files(job, snapshot.source, work)


def fetched_files(job: Job, source: dict[str, Any], work: Workdir) -> Files:
    return Files(str(work.folder.folder(f"{layout.FETCHED}/{source['attempt']}")), job.output.storage_options)
