"""The job's reader of answers: whether it is one, and whose answers it learned from."""

from __future__ import annotations

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.router.notes import Notes
from batchroute.router.reading import Reads, check_reads

KEY = "models.small.confidence.reader"


def check_reader(job: Job) -> None:
    """Raises:
    InputError: the job's reader is missing or is a router of prompts, or its router is a reader of answers.
    """
    if job.router is not None:
        _check("router.model", job.router.model, "prompt")
    if job.models.small.reader is not None:
        _check(KEY, job.models.small.reader, "answer")


def _check(key: str, name: str, reads: Reads) -> None:
    try:
        check_reads(name, reads)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def other_small_model(job: Job) -> str | None:
    """A warning if the reader learned from the answers of another small model; None if not."""
    reader = job.models.small.reader
    learned = None if reader is None else Notes.read(reader).models["small"]
    if learned is None or learned == job.models.small.model:
        return None
    return (
        f"the reader {reader} learned from answers of {learned}, and models.small.model is {job.models.small.model}: "
        "its readings may mislead, so train one on this model's answers"
    )
