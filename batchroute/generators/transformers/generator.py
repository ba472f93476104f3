"""The generator of the `transformers` backend: it loads a model and chooses how to batch its rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from batchroute.errors import InputError, first_line
from batchroute.generators.base import Response, read_once
from batchroute.generators.prompting import check_template
from batchroute.generators.settings import ModelSpec
from batchroute.generators.thoughts import Dropped
from batchroute.generators.transformers.finite import Streak
from batchroute.generators.transformers.loading import Loaded, load
from batchroute.generators.transformers.neighbours import SHARINGS, Sharing, sharing
from batchroute.generators.transformers.rows import Reader, Request, Writer
from batchroute.generators.transformers.static import CPU_ROWS, StaticBatches
from batchroute.hardware.devices import free_memory
from batchroute.prompt import Prompt

if TYPE_CHECKING:
    from batchroute.generators.transformers.continuous import ContinuousBatches
    from batchroute.generators.transformers.refill import RefilledBatches

# Enough rows to keep a GPU full from one call of `generate` to the next, few enough to report progress often.
_MANY_ROWS = 1024
# The last rows of each call generate in small batches. More rows a call make that rarer, and progress reports too.
_CPU_ROWS_TO_REFILL = 256

_WORDS = {
    "without prefixes": "after a prefix that was read before: each row reads its whole prompt",
    "equal lengths": "next to rows of other lengths: only rows of equal length share a batch",
    "singly": "next to other rows: rows are answered one at a time",
}

Batches = TypeVar("Batches")


class TransformersGenerator:
    """A Hugging Face model on the CPU, a GPU or several: decoder or encoder-decoder.

    Rows generate in continuous batches if the model, the sampling and the device allow it, else in refilled ones, else
    in static ones. If the first two fail while they run, the rest of the rows generates in static batches.

    Attributes:
        notes: one sentence each for the operator; `generate` may add some.
        sharing: how rows share batches, found by a few samples when the model loads.
    """

    units_at_once = 1

    def __init__(self, spec: ModelSpec, device: torch.device, gpus: Sequence[int] | None = None) -> None:
        """Load the model that `spec` names.

        Args:
            gpus: the GPUs that the model may be spread over; all visible ones unless set.

        Raises:
            InputError: the model is not there, cannot be loaded safely, or cannot do what `spec` asks for; or its chat
                template refuses every prompt.
        """
        started = time.perf_counter()
        loaded = load(spec, device, gpus)
        self.notes: list[str] = check_template(spec, loaded.tokenizer)
        if loaded.context is not None and spec.generation.max_new_tokens >= loaded.context:
            raise InputError(
                f"generation.max_new_tokens is {spec.generation.max_new_tokens:,}, but the model '{spec.model}' has a "
                f"context of {loaded.context:,} tokens for prompt and response"
            )
        self._name, self._dropped = spec.model, Dropped(spec.model, spec.reasoning)
        self._model = loaded.model
        self._device = loaded.device
        self._without_numbers = Streak(spec.model, loaded.model.dtype, spec.quantization)
        self._reader = Reader(spec, loaded)
        writer = Writer(loaded, spec.generation, spec.logprobs)
        self._static = StaticBatches(loaded, writer, spec)
        self._continuous = self._try("continuous", spec, lambda: _continuous(loaded, writer, spec))
        self._refilled = None
        if self._continuous is None:
            self._refilled = self._try("refilled", spec, lambda: _refilled(loaded, writer, spec))
        self._sampled: tuple[RefilledBatches | None, StaticBatches] | None = None
        if spec.samples:
            sampled = spec.model_copy(update={"generation": spec.sampled, "confidence": None})
            plain = Writer(loaded, sampled.generation)
            refilled = self._try("refilled", sampled, lambda: _refilled(loaded, plain, sampled))
            self._sampled = refilled, StaticBatches(loaded, plain, sampled)
        self._loaded, self._spec, self._writer = loaded, spec, writer
        # Continuous batches read prompts as refilled ones do, and take longer to start than the check may.
        self._may_refill = self._refilled is not None or (self._continuous is not None and _may_refill(loaded))
        self.sharing = sharing(loaded, writer, spec, self._may_refill)
        self._share(self.sharing)
        self.load_seconds = time.perf_counter() - started

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
        return self._answer(prompts, seeds, (self._continuous, self._refilled, self._static))

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Response]]:
        assert self._sampled is not None
        pairs = [(prompt, seed) for prompt, of_prompt in zip(prompts, seeds, strict=True) for seed in of_prompt]
        # Refilled batches read equal prompts of a call once.
        answers = iter(self._answer([prompt for prompt, _ in pairs], [seed for _, seed in pairs], self._sampled))
        return [read_once(list(itertools.islice(answers, len(of_prompt)))) for of_prompt in seeds]

    def _answer(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        kinds: Sequence[ContinuousBatches | RefilledBatches | StaticBatches | None],
    ) -> list[Response]:
        responses: dict[int, Response] = {}
        requests: list[Request] = []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            request = self._reader.request(index, prompt, seed)
            if isinstance(request, Response):
                responses[index] = request
            else:
                requests.append(request)
        for batches in kinds:
            if batches is not None and requests:
                responses.update(batches.answer(requests))
                requests = [request for request in requests if request.index not in responses]
                self._fall_back()
        self.notes += self._dropped.note(responses.values())
        answers = [responses[index] for index in range(len(prompts))]
        self._without_numbers.count(answers)
        return answers

    def close(self) -> None:
        if self._continuous is not None:
            self._continuous.close()
        del self._model, self._loaded, self._static, self._continuous, self._refilled, self._sampled
        free_memory(self._device)

    def share(self, name: str) -> None:
        """Let rows share batches as the run began, if this machine can: `name` is the `sharing` of another process."""
        kept = next((one for one in SHARINGS if one == name), None)
        if kept is not None and SHARINGS.index(kept) > SHARINGS.index(self.sharing):
            self._share(kept)

    def _share(self, how: Sharing) -> None:
        """Let only rows share a batch that do not change each other's answers, with a note if some do.

        Raises:
            InputError: the job file asks for continuous batches, and rows of this model change each other there.
        """
        self.sharing = how
        if how in ("equal lengths", "singly") or (how == "padded" and self._may_refill):
            if self._continuous is not None and self._spec.batching == "continuous":
                raise InputError(
                    f"batching is continuous for the model '{self._name}', but it answers otherwise next to other "
                    "rows: leave it out"
                )
            self._continuous = self._refilled = None
            self._sampled = None if self._sampled is None else (None, self._sampled[1])
        statics = [self._static, *([] if self._sampled is None else [self._sampled[1]])]
        for static in statics:
            # After refilled batches, static ones get the rows that raised there.
            static.sharing = how if how in ("padded", "equal lengths") else "singly"
        for refilled in (self._refilled, None if self._sampled is None else self._sampled[0]):
            if refilled is not None:
                refilled.prefixes = how == "refilled"
        continuous, refill = self._continuous is not None, self._refilled is not None
        self.rows_at_a_time = _rows_at_a_time(self._loaded, self._spec, continuous, refill)
        if how in _WORDS:
            self.notes.append(f"the model '{self._name}' answers otherwise {_WORDS[how]}, which is slower")

    def _try(self, kind: str, spec: ModelSpec, make: Callable[[], Batches | None]) -> Batches | None:
        """What `make` returns; None, with a note, if this model or this version of transformers lacks what it needs.

        Raises:
            InputError: the job file asks for this kind of batches.
        """
        try:
            return make()
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            problem = (
                f"{kind} batches do not work with this version of transformers or this model ({first_line(error)})"
            )
            if spec.batching == kind:
                raise InputError(f"the model '{self._name}': {problem}: leave out batching") from error
            self.notes.append(f"the model '{self._name}' generates without the fastest batches: {problem}")
            return None

    def _fall_back(self) -> None:
        """If continuous or refilled batches have died, generate in static batches from here on, with a note."""
        sampled = None if self._sampled is None else self._sampled[0]
        for kind, batches in (("continuous", self._continuous), ("refilled", self._refilled), ("refilled", sampled)):
            if batches is not None and batches.died is not None:
                self.notes.append(
                    f"the model '{self._name}' goes on in static batches: {kind} ones ended with {batches.died}"
                )
                self._continuous = self._refilled = None
                self._sampled = None if self._sampled is None else (None, self._sampled[1])
                # The cache of these batches may hold most of the memory that static batches need.
                free_memory(self._device)
                self._may_refill = False
                self._share(sharing(self._loaded, self._writer, self._spec, refill=False))


def _continuous(loaded: Loaded, writer: Writer, spec: ModelSpec) -> ContinuousBatches | None:
    """Continuous batches, if the job file asks for them or if they are the fastest.

    Raises:
        InputError: the job file asks for them, and the model or the sampling does not allow them.
    """
    if spec.batching == "static":
        return None
    # transformers has no public interface for continuous and refilled batches: imported here, so that a rename in
    # transformers leaves static batches alone.
    from batchroute.generators.transformers.continuous import ContinuousBatches, pays, why_not

    reason = why_not(loaded, spec)
    if spec.batching == "continuous" and reason is not None:
        raise InputError(f"batching is continuous for the model '{spec.model}', but {reason}: leave it out")
    wanted = spec.batching == "continuous" or (reason is None and pays(loaded))
    return ContinuousBatches(loaded, writer, spec) if wanted else None


def _may_refill(loaded: Loaded) -> bool:
    try:
        from batchroute.generators.transformers.refill import can_refill
    except ImportError:
        return False
    return can_refill(loaded)


def _refilled(loaded: Loaded, writer: Writer, spec: ModelSpec) -> RefilledBatches | None:
    if spec.batching != "auto":
        return None
    from batchroute.generators.transformers.refill import RefilledBatches, can_refill

    return RefilledBatches(loaded, writer, spec) if can_refill(loaded) else None


def _rows_at_a_time(loaded: Loaded, spec: ModelSpec, continuous: bool, refill: bool = False) -> int:
    if loaded.device.type == "cuda" and (continuous or refill):
        return _MANY_ROWS
    if refill:
        return _CPU_ROWS_TO_REFILL
    if spec.batch_size != "auto" and not continuous:
        return max(64, 4 * spec.batch_size)
    return _MANY_ROWS if continuous or loaded.device.type == "cuda" else 4 * CPU_ROWS
