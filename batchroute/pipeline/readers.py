"""The job's reader of answers: a trained one, or one whose heads are fitted to tonight's rows."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from batchroute import models
from batchroute.config.job import Job
from batchroute.errors import InputError, at_key
from batchroute.pipeline import layout
from batchroute.router.notes import Notes
from batchroute.router.reading import check_reads
from batchroute.storage.workdir import Workdir

# torch is imported where a reader is loaded: `batchroute validate` spares it.
if TYPE_CHECKING:
    import torch

    from batchroute.router.heads.ensemble import Ensemble
    from batchroute.router.model import Router

KEY, FITTED_KEY = "models.small.confidence.reader", "policy.calibrate.reader"
_FITTED_TOKENS = 256
"""Read of an answer with its prompt by an encoder whose heads are fitted to tonight's rows."""


def check_reader(job: Job) -> None:
    """Raises:
    InputError: the job's reader is missing or is a router of prompts, its router is a reader of answers, or a reader
        cannot be fitted here.
    """
    if job.router is not None:
        with at_key("router.model"):
            check_reads(job.router.model, "prompt")
    if job.models.small.reader is not None:
        with at_key(KEY):
            check_reads(job.models.small.reader, "answer")
    elif job.reader is not None:
        with at_key(FITTED_KEY):
            models.check(job.reader)
        if importlib.util.find_spec("sklearn") is None:
            raise InputError(f"{FITTED_KEY} needs scikit-learn: pip install 'batchroute[train]'")


def load_encoder(job: Job, device: torch.device) -> Router:
    """The encoder of a reader that is fitted to tonight's rows, without heads."""
    from batchroute.router.training.encoders import frozen_encoder

    assert job.reader is not None
    started = time.perf_counter()
    encoder = frozen_encoder(job.reader, _FITTED_TOKENS, device, reads="answer")
    encoder.name, encoder.load_seconds = job.reader, time.perf_counter() - started
    return encoder


def load_reader(job: Job, work: Workdir, device: torch.device) -> Router:
    """The trained reader, or the encoder with the heads that were fitted to tonight's rows."""
    from batchroute.router.heads import ensemble
    from batchroute.router.model import Router
    from batchroute.router.neighbours import sharing

    if job.models.small.reader is not None:
        return Router.load(job.models.small.reader, device, reads="answer")
    reader = load_encoder(job, device)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / models.HEADS_FILE).write_bytes(work.folder.read(layout.READER))
        heads = ensemble.read(Path(folder))
    assert heads is not None
    reader.heads = heads.to(device)
    reader.share(sharing(reader, reader.name, str(reader.model.dtype).removeprefix("torch.")))
    return reader


def has_heads(work: Workdir) -> bool:
    """Whether heads were fitted to tonight's rows."""
    return work.folder.exists(layout.READER)


def put_heads(work: Workdir, heads: Ensemble) -> None:
    with tempfile.TemporaryDirectory() as folder:
        heads.save(Path(folder))
        work.folder.put_new(layout.READER, (Path(folder) / models.HEADS_FILE).read_bytes())


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
