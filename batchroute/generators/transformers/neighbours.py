"""Whether the rows of a batch leave each other alone: found by answering three samples alone and together.

Some architectures ignore the mask of padding (recurrent ones), read padding as a part of the prompt (attention in both
directions), read a prompt otherwise in parts (a shared prefix first), or share something between rows (experts that
take only so many tokens). Their answers in a batch look as good as any, and are others than alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch

from batchroute import models
from batchroute.errors import BatchrouteError
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.rows import Request, Writer
from batchroute.models.remembered import remembered

Sharing = Literal["refilled", "without prefixes", "padded", "equal lengths", "singly"]
"""How rows may share a batch, the fastest first: refilled batches, those without shared prefixes, static batches with
padding, static batches of rows of one length, or not at all."""

SHARINGS: tuple[Sharing, ...] = get_args(Sharing)

_TEXT = (
    "Name the capital of India, then count from one to nine, and say which of these words is a fruit: apple, stone, "
    "river or glass? Translate the sentence into French, explain every step of it, and end with one short line."
)
# The first two prompts begin alike, with a prefix; the third is another text.
_PREFIX, _TAILS, _OTHER, _STEPS = 12, (9, 3), 6, 2
_SAME = 8
# The largest difference of a logit, in standard deviations of a row's logits. Kernels of other batch sizes add up in
# another order, which shows in the last digits: of float32 four orders of magnitude below this.
_NOISE = {torch.float32: 0.02, torch.float16: 0.1, torch.bfloat16: 0.4}

_Steps = list[tuple[int, torch.Tensor]]
"""Of a row, for each step the token that was written and the logits that it was chosen from."""


def sharing(loaded: Loaded, writer: Writer, spec: ModelSpec, refill: bool) -> Sharing:
    """How rows of this model may share a batch, from the cache folder if it was found before.

    Args:
        refill: whether the model works in refilled batches at all.
    """
    key = {
        "model": models.identity(spec.model),
        "revision": getattr(loaded.config, "_commit_hash", None),
        "adapter": spec.adapter and models.identity(spec.adapter),
        "quantization": spec.quantization,
        "dtype": loaded.model.dtype,
        "device": loaded.device.type,
        "refill": refill,
    }
    found = remembered("neighbours", key, lambda: find_sharing(loaded, writer, refill), SHARINGS)
    return next(one for one in SHARINGS if one == found)


def find_sharing(loaded: Loaded, writer: Writer, refill: bool) -> Sharing:
    """As `sharing`, by the samples."""
    tokens: list[int] = writer.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    longest = _PREFIX + max(_TAILS)
    if len(tokens) < longest + _OTHER or (loaded.context or longest + _STEPS) < longest + _STEPS:
        return "refilled" if refill else "padded"
    rows = [tokens[: _PREFIX + tail] for tail in _TAILS] + [tokens[longest : longest + _OTHER]]
    # Not equal from the first token of the tail on.
    rows[1] = [*rows[1][:_PREFIX], *tokens[-_TAILS[1] :]]
    try:
        alone = [_static(loaded, writer, [row])[0] for row in rows]
    except BatchrouteError:
        # The run ends, such as by a signal that came in the model: no error of it.
        raise
    except Exception:
        # Not even one row works: each says so itself when it is answered.
        return "refilled" if refill else "padded"
    ways: list[tuple[Sharing, Callable[[], list[_Steps]]]] = [("padded", lambda: _static(loaded, writer, rows))]
    if refill:
        ways.insert(0, ("refilled", lambda: _refilled(loaded, writer, rows, _PREFIX)))
        ways.insert(1, ("without prefixes", lambda: _refilled(loaded, writer, rows, 0)))
    for name, together in ways:
        if _alike(loaded, alone, together):
            return name
    same = [tokens[start : start + _SAME] for start in range(3)]
    alone = [_static(loaded, writer, [row])[0] for row in same]
    return "equal lengths" if _alike(loaded, alone, lambda: _static(loaded, writer, same)) else "singly"


def _alike(loaded: Loaded, alone: Sequence[_Steps], together: Callable[[], list[_Steps]]) -> bool:
    try:
        beside = together()
    except BatchrouteError:
        # The run ends, such as by a signal that came in the model: no error of it.
        raise
    except Exception:
        return False
    most = _NOISE.get(loaded.model.dtype, _NOISE[torch.bfloat16])
    return all(_distance(one, other) <= most for one, other in zip(alone, beside, strict=True))


def _distance(alone: _Steps, beside: _Steps) -> float:
    """The largest difference up to the first token that is another one."""
    largest = 0.0
    for (token, one), (other_token, other) in zip(alone, beside, strict=False):
        finite = one.isfinite()
        if not finite.any() or not torch.equal(finite, other.isfinite()):
            return 0.0 if torch.equal(finite, other.isfinite()) else float("inf")
        one, other = one[finite], other[finite]
        largest = max(largest, float((one - other).abs().max() / one.std().clamp_min(1e-6)))
        if token != other_token:
            break
    return largest


@torch.inference_mode()
def _static(loaded: Loaded, writer: Writer, rows: Sequence[list[int]]) -> list[_Steps]:
    padded = writer.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(loaded.device)
    settings = copy.deepcopy(writer.generation)
    settings.max_new_tokens, settings.return_dict_in_generate, settings.output_logits = _STEPS, True, True
    written = loaded.model.generate(
        input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], generation_config=settings
    )
    tokens = written.sequences[:, -len(written.logits) :].tolist()
    found: list[_Steps] = []
    for row, chosen in enumerate(tokens):
        steps = [(token, logits[row].float()) for token, logits in zip(chosen, written.logits, strict=True)]
        # What follows an end token is padding, in a batch alone.
        end = next((step for step, token in enumerate(chosen) if token in writer.ends), len(steps))
        found.append(steps[: end + 1])
    return found


def _refilled(loaded: Loaded, writer: Writer, rows: Sequence[list[int]], prefix: int) -> list[_Steps]:
    """The last row joins after the first step of the others, and moves into the slot of one that has ended.

    Args:
        prefix: tokens of the prefix that the first rows share; the last row has one of its own, of a quarter as many.
    """
    # transformers has no public interface for refilled batches, see `generator.py`.
    from batchroute.generators.transformers.row import Row
    from batchroute.generators.transformers.running import Running

    steps: dict[int, _Steps] = {index: [] for index in range(len(rows))}

    class Watched(Running):
        def _write(self, scores: torch.Tensor) -> None:
            super()._write(scores)
            for logits, branch in zip(scores, self.branches, strict=True):
                for row in branch:
                    steps[row.request.index].append((row.written[-1], logits))

    *first, last = (Request(index, list(row), 0) for index, row in enumerate(rows))
    joining = [Row(request, tuple(request.tokens[:prefix]), shared=prefix > 0) for request in first]
    width = max(map(len, rows)) + _STEPS
    running = Watched(loaded, writer, Sampling(max_new_tokens=_STEPS), len(rows), width)
    try:
        running.prefill(joining)
        running.step()
        running.prefill([Row(last, tuple(last.tokens[: prefix // 4]))])
        while running.rows:
            running.step()
    finally:
        running.close()
    return [steps[index] for index in range(len(rows))]
