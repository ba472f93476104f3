"""Generation: each model answers its shards, piece by piece. One model is in memory at a time."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from batchroute import generators
from batchroute.config.job import JobModel
from batchroute.engines.base import Pool
from batchroute.errors import InputError, StoppedError
from batchroute.fields import Side
from batchroute.generators.base import Generator, PartlyAnsweredError, Response
from batchroute.generators.prompting import TEMPLATE_REFUSED
from batchroute.pipeline import sharing
from batchroute.pipeline.batches.provider import answer_by_batches
from batchroute.pipeline.batches.rows import limits_of
from batchroute.pipeline.context import Context
from batchroute.pipeline.precision import fixed
from batchroute.pipeline.shards.answers import model_of
from batchroute.pipeline.shards.limits import Allowance
from batchroute.pipeline.shards.names import Shard, shards_of
from batchroute.pipeline.shards.pieces import Piece, Pieces
from batchroute.pipeline.shards.telemetry import attributes
from batchroute.pipeline.stages.confidence import NOTHING_TOLD
from batchroute.prompt import Prompt
from batchroute.redaction import without_quotes
from batchroute.storage.receipts import Receipt
from batchroute.tables.prompts import of_shard

# After this many rows with one and the same error, the other rows would only burn money; and after as many if the model
# has not answered any row yet.
_HOPELESS, _HOPELESS_AT_FIRST = 100, 20
# So many answers without a signal are no accident.
_SILENT = 20
_MODELS_FAULT = ("model_error", "api_error", "bad_request")


def generate_ahead(context: Context, side: Side) -> None:
    """Generate one model's own shard while the other model answers, unless a limit needs the cost of both in order."""
    model = context.job.models.of(side)
    if _pool(model, side) is not None and not _limited(context):
        _generate(context, side, [side])


def generate(context: Context, side: Side, wait: bool = True) -> bool:
    """Generate all pieces of one model's shards that have no receipt yet.

    Args:
        wait: until provider batches have ended.

    Returns:
        Whether all pieces have answers.

    Raises:
        StoppedError: a limit of the job is reached, or the model fails on every row.
    """
    if context.job.models.of(side).record.batches is not None:
        return bool(context.engine.broadcast(lambda: answer_by_batches(context, side, wait)))
    _generate(context, side, shards_of(side))
    return True


def _generate(context: Context, side: Side, shards: Sequence[Shard]) -> None:
    model = context.job.models.of(side)
    limits = limits_of(context) if _limited(context) else None
    make_worker, gpus = functools.partial(GenerateWorker, side=side), model.gpus_of_a_copy
    with context.engine.workers(context, make_worker, _pool(model, side), gpus=gpus) as workers:
        for shard in shards:
            workers.run(shard, Pieces(context, shard).assigned(), attributes(model), limits)


def _limited(context: Context) -> bool:
    return context.job.max_cost is not None or context.job.max_tokens is not None


def _pool(model: JobModel, side: Side) -> Pool | None:
    """The pool of the workers; None for a model behind an API, whose rate limit all processes share."""
    return side if not model.record.behind_api else None


class GenerateWorker:
    """A worker that loads a model and generates pieces."""

    def __init__(self, context: Context, side: Side) -> None:
        engine, work = context.engine, context.work
        engine.progress.note("load", f"loading the {side} model {context.job.models.of(side).model}")
        model = model_of(context.job, side)
        if model.why_backend is not None:
            words = f"backend: auto takes {model.backend} for the {side} model: {model.why_backend}"
            engine.progress.note("backend", words, side=side, backend=model.backend)
        model = fixed(work, side, model, lambda: engine.device, engine.progress, shards_of(side))
        self._generator: Generator = generators.load(model, lambda: engine.device, engine.gpus(model.gpus_of_a_copy))
        sharing.keep(work, side, self._generator)
        self._pieces = {shard: Pieces(context, shard) for shard in shards_of(side)}
        self._ask_first = getattr(self._generator, "preflight", None) if model.record.behind_api else None
        self._asked_first: set[Shard] = set()
        self._preflying = threading.Lock()
        self._limits = limits_of(context) if _limited(context) else None
        by_columns = 1 if self._limits is not None else getattr(self._generator, "column_units_at_once", 1)
        self.units_at_once = max(self._generator.units_at_once, by_columns)
        self._loading_told = 0.0
        self._logged = 0
        self._answered = False
        self._failed: list[Response] = []
        self._lock = threading.Lock()

    def do(self, stage: Shard, assigned: Receipt) -> Receipt:
        started = time.perf_counter()
        pieces = self._pieces[stage]
        self._preflight(pieces)
        piece = pieces.read(assigned)
        loading = self._generator.load_seconds
        columns = self._by_columns(pieces, piece)
        if columns is not None:
            self._answered = True
            return pieces.commit_columns(piece, columns, self._working(started, loading), self._loading())
        responses: list[Response | None] = []
        try:
            for answered in self._answers(pieces, piece, started):
                responses += answered
        except StoppedError as stop:
            last = stop.responses if isinstance(stop, PartlyAnsweredError) else []
            seconds = self._working(started, loading)
            pieces.keep(piece, [*responses, *last], seconds + self._loading())
            raise
        whole = [one for one in responses if one is not None]
        self._stop_if_nothing_told(pieces, whole)
        self._stop_if_hopeless(pieces, piece.todo, whole)
        receipt = pieces.commit(piece, whole, self._working(started, loading), self._loading())
        if self._limits is not None:
            self._limits.after(stage, assigned, receipt)
        return receipt

    def close(self) -> None:
        self._generator.close()

    def _by_columns(self, pieces: Pieces, piece: Piece) -> pa.Table | None:
        """The answers to all rows, from a `ColumnGenerator`; None where they come row by row."""
        answer = getattr(self._generator, "answer_columns", None)
        if answer is None or self._limits is not None or not pieces.by_columns(piece):
            return None
        columns: pa.Table | None = answer(piece.todo["prompt"])
        if columns is not None:
            rows = piece.todo.num_rows
            pieces.context.engine.progress.pulse(pieces.shard, piece.unit, rows, rows)
            self._log_notes(pieces)
        return columns

    def _answers(self, pieces: Pieces, piece: Piece, started: float) -> Iterator[list[Response]]:
        """Responses to all rows, a batch at a time. Pieces are ordered by length, and so are the batches."""
        rows, done, kind = piece.todo, 0, pieces.context.snapshot.prompt_kind
        allowance = self._allowance(pieces.shard)
        while done < rows.num_rows:
            batch = rows.slice(done, self._generator.rows_at_a_time)
            prompts, seeds = of_shard(batch["prompt"], kind), pieces.seeds(batch["position"].to_pylist())
            if allowance is not None:
                most = allowance.rows(prompts, time.perf_counter() - started)
                prompts, seeds = prompts[:most], seeds[:most]
            responses = self._generator.generate(prompts, seeds)
            if allowance is not None:
                allowance.count(prompts, responses)
            yield responses
            done += len(responses)
            pieces.context.engine.progress.pulse(pieces.shard, piece.unit, done, rows.num_rows)
            self._log_notes(pieces)

    def _preflight(self, pieces: Pieces) -> None:
        """Ask an endpoint once before its shard is sent, with the longest prompt and the smallest output.

        Its answer is nobody's, and stands in no report.
        """
        if self._ask_first is None:
            return
        with self._preflying:
            if pieces.shard in self._asked_first:
                return
            self._asked_first.add(pieces.shard)
            ends, allowance = pieces.extremes(), self._allowance(pieces.shard)
            if ends is None or (allowance is not None and not allowance.fits(ends[0])):
                return
            note = self._ask_first(*ends)
        if note:
            pieces.context.engine.progress.note("preflight", f"{pieces.shard}: {note}")

    def _allowance(self, shard: Shard) -> Allowance | None:
        """What is left for a unit's rows; None without limits."""
        if self._limits is None:
            return None
        self._limits.refresh(shard)
        return self._limits.allowance(shard)

    def _stop_if_hopeless(self, pieces: Pieces, rows: pa.Table, responses: Sequence[Response]) -> None:
        # A client of an endpoint stops by itself, and asks before whether other rows would pass.
        if pieces.model.record.behind_api:
            return
        kind = pieces.context.snapshot.prompt_kind
        self._answered = self._answered or any(response.answered for response in responses)
        # Until the model has answered a row, failures of small pieces add up.
        self._failed = [] if self._answered else [*self._failed[-_HOPELESS:], *responses]
        stop_if_hopeless(
            pieces.model.model,
            responses if self._answered else self._failed,
            lambda: of_shard(rows["prompt"].slice(0, 1), kind)[0],
            lambda: self._answered or _has_answered(pieces.context, pieces.shard),
        )

    def _stop_if_nothing_told(self, pieces: Pieces, responses: Sequence[Response]) -> None:
        """Before all other rows are paid for: an endpoint may ignore that it was asked for log-probabilities.

        Raises:
            InputError: the policy looks at the small model's answers, and they come without signals.
        """
        policy, reader = pieces.context.job.policy, pieces.context.job.reader
        if pieces.side != "small" or not policy.looks_after or policy.signals is not None or reader is not None:
            return
        texts = [one for one in responses if one.answered and one.text]
        if len(texts) >= _SILENT and all(one.logprob_low is None and one.agreement is None for one in texts):
            raise InputError(NOTHING_TOLD)

    def _log_notes(self, pieces: Pieces) -> None:
        with self._lock:
            new, self._logged = self._generator.notes[self._logged :], len(self._generator.notes)
        for note in new:
            pieces.context.engine.progress.note("model", note)

    def _working(self, started: float, loading: float) -> float:
        """Seconds since `started` but those in which the model was loaded again.

        Args:
            loading: `load_seconds` of the generator at that time.
        """
        return time.perf_counter() - started - (self._generator.load_seconds - loading)

    def _loading(self) -> float:
        """The seconds that loading took and that no piece was told yet."""
        with self._lock:
            told, self._loading_told = self._loading_told, self._generator.load_seconds
        return self._loading_told - told


def _has_answered(context: Context, shard: Shard) -> bool:
    """Whether an earlier worker of this run got an answer."""
    return any(receipt.counts.get("answered", 0) for receipt in context.work.stage(shard).receipts().values())


def stop_if_hopeless(
    model: str,
    responses: Sequence[Response],
    first: Callable[[], Prompt],
    has_answered: Callable[[], bool] = lambda: False,
) -> None:
    """Args:
        first: returns the prompt of the first row, which the message does not quote.
        has_answered: whether the model has answered a row of this run before; a cluster of bad rows then stops nothing.

    Raises:
        StoppedError: all rows failed with one and the same error, and there are enough of them.
    """
    if not responses or not _is_models_fault(responses[0]):
        return
    errors = [response.error if _is_models_fault(response) else None for response in responses]
    if len(errors) < _HOPELESS_AT_FIRST or errors[0] is None or set(errors) != {errors[0]}:
        return
    # A chat template refuses chats by their shape: after an answer, it is these rows' fault.
    least = _HOPELESS if responses[0].error_type in _MODELS_FAULT else len(errors) + 1
    if len(errors) >= least or not has_answered():
        words = without_quotes(errors[0], first())
        raise StoppedError(
            f"all {len(errors)} rows of a piece failed alike on the model '{model}': {words}; fix it and run again"
        )


def _is_models_fault(response: Response) -> bool:
    refused = response.error_type == "bad_chat" and (response.error or "").startswith(TEMPLATE_REFUSED)
    return response.error_type in _MODELS_FAULT or refused
