"""Whether a job's input can be listed, its output can be written create-only, and its table can be reached."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from batchroute.commands.doctor.finding import Finding, note, ok, problem, size
from batchroute.commands.doctor.network import unreached_url
from batchroute.commands.doctor.pair import router_is_there
from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.pipeline.cache.place import cache_folder
from batchroute.pipeline.stages import snapshot
from batchroute.redaction import host
from batchroute.storage.local import LocalFolder
from batchroute.storage.objects import folder_at
from batchroute.storage.places import split_protocol
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from batchroute.tables.sources import source_of
from batchroute.tables.targets import target_of
from batchroute.tables.types import portable_schema
from batchroute.words import plural

_LITTLE_DISK = 1 << 30
_PROBE = ".probe-"


def input_of(job: Job) -> Finding:
    """List files and read their footers, or ask for a query's columns; read no row.

    Raises:
        InputError, StoppedError: the input cannot be read, or has no prompts.
    """
    if job.input.uri:
        _reach(job.input.uri, job.input.storage_options)
    if job.input.uri and job.input.text_format is None:
        source = Files(job.input.uri, job.input.storage_options)
        table = PromptTable.open(source.find(), source, job.input.drift == "strict")
        words = f"{table.rows:,} rows in {plural(len(table.files), 'file')}"
        words += "" if job.input.in_place else ", of which a run fetches the new ones"
    else:
        source_table = source_of(job.input)
        table = PromptTable([], portable_schema(source_table.schema(source_table.pin())), [0], Files())
        words = f"{source_table.public} can be {'read' if job.input.uri else 'asked'}"
    return ok("input", f"{words}, prompts are {snapshot.check_columns(_without_router(job), table)}")


def _without_router(job: Job) -> Job:
    """The job without its router, if that is missing, and without an audit that would use the router's metric."""
    if job.router is None or router_is_there(job):
        return job
    report = job.report
    if report.audit is not None and report.audit.metric is None:
        report = report.model_copy(update={"audit": None})
    return job.model_copy(update={"router": None, "report": report})


def output_of(job: Job) -> Iterator[Finding]:
    """Write a probe and remove it.

    Raises:
        InputError, StoppedError: the output is not writable, or puts are not create-only.
    """
    _reach(job.output.uri, job.output.storage_options)
    output = folder_at(job.output.uri, job.output.storage_options, job.output.single_writer)
    if output.is_file():
        raise InputError(f"output.uri {output} is a file; name a folder")
    output.check_writable()
    if isinstance(output, LocalFolder):
        yield _local(output)
        return
    warning = output.check_create_only()
    if warning is None:
        yield ok("output", f"{output} is writable, and puts are create-only: two runs at once stay apart")
    else:
        yield note(
            "output", warning, "use a storage with conditional writes, or make sure that one run writes at a time"
        )


def _local(output: LocalFolder) -> Finding:
    """Create-only puts need hard links, which some disks lack. Probes an existing parent: the output is not created."""
    place = output.path
    while not place.exists():
        place = place.parent
    probe, folder = f"{_PROBE}{uuid.uuid4().hex}", LocalFolder(place)
    try:
        kept = folder.put_new(probe, b"1") and not folder.put_new(probe, b"2")
    finally:
        folder.remove(probe)
    if not kept:
        return problem(
            "output", f"the disk of {output} has no create-only puts", "write to another disk or to a bucket"
        )
    free = shutil.disk_usage(place).free
    words = f"{output} is writable, puts are create-only; {size(free)} free"
    return (
        note("output", words, "make room for three times the size of the input")
        if free < _LITTLE_DISK
        else ok("output", words)
    )


def cache_of(job: Job) -> Iterator[Finding]:
    """Raises:
    InputError, StoppedError: the cache is not writable, or lies in the input or the output.
    """
    if job.cache is not None:
        _reach(job.cache.uri, job.cache.storage_options)
        folder = cache_folder(job)
        assert folder is not None
        folder.check_writable()
        yield ok("cache", f"{folder} is writable; its files hold answers in clear")


def table_of(job: Job) -> Iterator[Finding]:
    """Raises:
    InputError, StoppedError: the table's driver is missing, or its server does not answer or refuses.
    """
    target = target_of(job.output.table, job.input.id)
    if target is not None:
        target.loads("")
        yield ok("table", f"{target.public} can be asked")


def _reach(uri: str, options: Mapping[str, Any]) -> None:
    """Try an S3 endpoint first: the S3 client would wait long for one that does not answer.

    Raises:
        InputError: the endpoint does not answer.
    """
    if split_protocol(uri)[0] not in ("s3", "s3a"):
        return
    named = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    endpoint = endpoint or next((os.environ[name] for name in named if os.environ.get(name)), None)
    why = unreached_url(str(endpoint)) if endpoint else ""
    if why:
        raise InputError(
            f"the storage at {host(str(endpoint))} cannot be reached: {why}; start it, or fix AWS_ENDPOINT_URL"
        )
