"""Whether the rows of a batch leave each other alone: found by answering a few samples alone and together.

Some architectures ignore the mask of padding (recurrent ones), read padding as a part of the prompt (attention in both
directions), or share something between rows (experts that take only so many tokens). Their answers in a batch look as
good as any, and are others than alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch

from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.rows import Writer

Together = Literal["padded", "equal lengths", "singly"]
"""How rows may share a batch: with padding, only with rows of the same length, or not at all."""

_TEXT = "Name the capital of India, then count from one to nine, and say which of these words is a fruit: apple, stone."
_LENGTHS, _SAME, _STEPS = (3, 8, 14), 8, 4
# The largest difference of a logit, in standard deviations of a row's logits. Kernels of other batch sizes add up in
# another order, which shows in the last digits: of float32 four orders of magnitude below this.
_NOISE = {torch.float32: 0.02, torch.float16: 0.1, torch.bfloat16: 0.4}

_Logits = list[list[tuple[int, torch.Tensor]]]
"""Of each row, for each step the token that was written and the logits that it was chosen from."""


def together(loaded: Loaded, writer: Writer) -> Together:
    """How rows of this model may share a batch."""
    tokens: list[int] = writer.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    longest = min(len(tokens), (loaded.context or len(tokens)) - _STEPS)
    if longest < max(_LENGTHS) + 2:
        return "padded"
    differing = [tokens[:length] for length in _LENGTHS]
    if _alike(loaded, writer, differing):
        return "padded"
    same = [tokens[start : start + _SAME] for start in range(3)]
    return "equal lengths" if _alike(loaded, writer, same) else "singly"


def _alike(loaded: Loaded, writer: Writer, rows: Sequence[list[int]]) -> bool:
    try:
        alone = [row for tokens in rows for row in _logits(loaded, writer, [tokens])]
    except Exception:
        # Not even one row works: each says so itself when it is answered.
        return True
    try:
        beside = _logits(loaded, writer, rows)
    except Exception:
        return False
    most = _NOISE.get(loaded.model.dtype, _NOISE[torch.bfloat16])
    return all(_distance(one, other) <= most for one, other in zip(alone, beside, strict=True))


def _distance(alone: list[tuple[int, torch.Tensor]], beside: list[tuple[int, torch.Tensor]]) -> float:
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
def _logits(loaded: Loaded, writer: Writer, rows: Sequence[list[int]]) -> _Logits:
    padded = writer.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(loaded.device)
    settings = copy.deepcopy(writer.generation)
    settings.max_new_tokens, settings.return_dict_in_generate, settings.output_logits = _STEPS, True, True
    written = loaded.model.generate(
        input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], generation_config=settings
    )
    tokens = written.sequences[:, -len(written.logits) :].tolist()
    found: _Logits = []
    for row, chosen in enumerate(tokens):
        steps = [(token, logits[row].float()) for token, logits in zip(chosen, written.logits, strict=True)]
        # What follows an end token is padding, in a batch alone.
        end = next((step for step, token in enumerate(chosen) if token in writer.ends), len(steps))
        found.append(steps[: end + 1])
    return found
