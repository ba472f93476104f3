"""Generation: each model answers its shards, piece by piece, one model in memory at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pyarrow as pa

from batchroute import generators
from batchroute.errors import StoppedError
from batchroute.generators.base import Generator, Response
from batchroute.spec import Side
from batchroute.stages import batches
from batchroute.stages.batch_rows import limits_of
from batchroute.stages.context import Context
from batchroute.stages.gen_ai import attributes
from batchroute.stages.limits import Limits
from batchroute.stages.pieces import Pieces
from batchroute.stages.shards import shards_of
from batchroute.storage.workdir import Receipt

# So many rows one after another with one and the same error of the model: the rest would only burn money.
_HOPELESS = 100
_MODELS_FAULT = ("model_error", "api_error", "bad_request")


def generate(context: Context, side: Side, wait: bool = True) -> bool:
    """Generate all pieces of one model's shards that have no receipt yet.

    Args:
        wait: for provider batches to end.

    Returns:
        Whether all pieces have their answers.

    Raises:
        StoppedError: a limit of the job is reached, or the model fails on every row.
    """
    if context.job.models.of(side).backend == "openai_batch":
        return batches.answer(context, side, wait)
    # Asked once: another process may answer them at the same time.
    shards = {pieces: pending for shard in shards_of(side) if (pending := (pieces := Pieces(context, shard)).pending())}
    if not shards:
        return True
    limits = limits_of(context)
    pieces, pending = next(iter(shards.items()))
    # Before the model is loaded: that may take minutes.
    limits.before(pieces.shard, pending[0])
    model = context.job.models.of(side)
    context.engine.progress.note("load", f"loading the {side} model {model.model}")
    generator = generators.load(model, lambda: context.engine.device)
    asker = _Asker(generator, limits)
    try:
        for pieces, pending in shards.items():
            asker.ask(pieces, pending)
    finally:
        generator.close()
    return True


class _Asker:
    """Asks a model for pieces."""

    def __init__(self, generator: Generator, limits: Limits) -> None:
        self._generator, self._limits = generator, limits
        self._load_seconds = generator.load_seconds
        self._told = 0
        self._lock = threading.Lock()

    def ask(self, pieces: Pieces, pending: list[Receipt]) -> None:
        """Ask for those that are pending, as many side by side as suits the generator."""
        engine, threads = pieces.context.engine, self._generator.units_at_once

        def do(receipt: Receipt) -> Receipt:
            return self._do(pieces, receipt)

        about = attributes(pieces.model)
        if threads == 1:
            engine.carry_out(pieces.shard, pending, pieces.done(), do, about)
        else:
            close = self._generator.close
            engine.carry_out_beside(pieces.shard, pending, pieces.done(), lambda: do, threads, close, about)

    def _do(self, pieces: Pieces, receipt: Receipt) -> Receipt:
        self._limits.before(pieces.shard, receipt)
        started = time.perf_counter()
        piece = pieces.read(receipt)
        responses = self._responses(pieces, piece.unit, piece.todo)
        committed = pieces.commit(piece, responses, time.perf_counter() - started, self._loading())
        self._limits.after(pieces.shard, receipt, committed)
        return committed

    def _responses(self, pieces: Pieces, unit: str, rows: pa.Table) -> list[Response]:
        """Responses to all rows, asked for some at a time; since pieces are ordered by length, so are the batches."""
        responses: list[Response] = []
        for start in range(0, rows.num_rows, self._generator.rows_at_a_time):
            some = rows.slice(start, self._generator.rows_at_a_time)
            seeds = pieces.seeds(some["position"].to_pylist())
            responses += self._generator.generate(some["prompt"].to_pylist(), seeds)
            pieces.context.engine.progress.pulse(pieces.shard, unit, len(responses), rows.num_rows)
            self._tell(pieces)
        stop_if_hopeless(pieces.model.model, responses)
        return responses

    def _tell(self, pieces: Pieces) -> None:
        with self._lock:
            new, self._told = self._generator.notes[self._told :], len(self._generator.notes)
        for note in new:
            pieces.context.engine.progress.note("model", note)

    def _loading(self) -> float:
        """The seconds of loading, for the first piece that is committed."""
        with self._lock:
            seconds, self._load_seconds = self._load_seconds, 0.0
        return seconds


def stop_if_hopeless(model: str, responses: Sequence[Response]) -> None:
    """Raises:
    StoppedError: so many rows failed with one and the same error that the rest would only burn money.
    """
    errors = [response.error if response.error_type in _MODELS_FAULT else None for response in responses]
    if len(errors) >= _HOPELESS and errors[0] is not None and set(errors) == {errors[0]}:
        raise StoppedError(
            f"all {len(errors)} rows of a piece failed alike on the model '{model}': {errors[0]}; mend it and run again"
        )
