"""Whether the score of a text depends on the texts in its batch: found by scoring three samples alone and together.

Some encoders ignore the mask of padding, choose another attention for longer batches, or have classification heads that
look for the last token of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch

from batchroute import models
from batchroute.errors import BatchrouteError
from batchroute.models.remembered import remembered

if TYPE_CHECKING:
    from batchroute.router.model import Router

Sharing = Literal["padded", "equal lengths", "singly"]
"""Which texts may share a batch, the fastest first: all, those of one length, or none."""

SHARINGS: tuple[Sharing, ...] = get_args(Sharing)

_TEXT = (
    "Name the capital of India, then count from one to nine, and say which of these words is a fruit: apple, stone, "
    "river or glass? Translate the sentence into French, explain every step of it, and end with one short line."
)
_LENGTHS, _SAME = (24, 11, 4), 8
# The largest difference, in standard deviations of an output with many numbers, else as it is. In float32 kernels of
# other batch sizes differ by 10⁻⁵; in 8 bits a difference as small can round a number to the next step.
_NOISE = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2, "int8": 0.2}


def sharing(router: Router, name: str, precision: str) -> Sharing:
    """Which texts may share a batch of this router, from the cache folder if it was found before.

    Args:
        precision: `int8`, or that of the weights.
    """
    key = {
        "model": models.identity(name),
        "revision": getattr(router.model.config, "_commit_hash", None),
        "precision": precision,
        "device": router.device.type,
    }
    found = remembered("router-neighbours", key, lambda: find_sharing(router, precision), SHARINGS)
    return next(one for one in SHARINGS if one == found)


def find_sharing(router: Router, precision: str = "float32") -> Sharing:
    """As `sharing`, by the samples."""
    whole = router.tokenizer(_TEXT, truncation=True, max_length=router.max_length)
    features = {name: list(whole[name]) for name in router.inputs if name in whole}
    length = len(features["input_ids"])
    if length < _SAME + 3:
        return "padded"
    end = router.tokenizer(".")["input_ids"][-1:]

    def text(start: int, tokens: int) -> dict[str, list[int]]:
        cut = {name: row[start : start + tokens] for name, row in features.items()}
        # The last token ends the text, as a tokenizer ends each.
        return cut | {"input_ids": [*cut["input_ids"][:-1], *end]}

    most = _NOISE.get(precision, _NOISE["bfloat16"])
    lengths = [min(one, length) for one in _LENGTHS]
    for how, texts in (
        ("padded", [text(0, tokens) for tokens in lengths]),
        ("equal lengths", [text(start, _SAME) for start in range(3)]),
    ):
        try:
            alone = [_outputs(router, [one])[0] for one in texts]
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception:
            # The router scores no text: it says so itself when it is asked.
            return "padded"
        try:
            beside = _outputs(router, texts)
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception:
            continue
        if all(_distance(one, other) <= most for one, other in zip(alone, beside, strict=True)):
            return next(one for one in SHARINGS if one == how)
    return "singly"


@torch.inference_mode()
def _outputs(router: Router, texts: Sequence[dict[str, list[int]]]) -> torch.Tensor:
    """What the score is made of: float32 [texts, numbers]."""
    padded = router.tokenizer.pad({name: [text[name] for text in texts] for name in texts[0]}, return_tensors="pt")
    same = len({len(text["input_ids"]) for text in texts}) == 1
    names = [*texts[0], *([] if same else ["attention_mask"])]
    batch = {name: padded[name].to(router.device) for name in names}
    return router.pooled(batch) if router.heads is not None else router.model(**batch).logits.float()


def _distance(alone: torch.Tensor, beside: torch.Tensor) -> float:
    if not (alone.isfinite().all() and beside.isfinite().all()):
        return 0.0 if torch.equal(alone.isfinite(), beside.isfinite()) else float("inf")
    scale = alone.std().clamp_min(1e-6) if alone.numel() > 2 else torch.ones((), device=alone.device)
    return float((alone - beside).abs().max() / scale)
