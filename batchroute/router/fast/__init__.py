"""Faster ways to compute the same scores. They use names inside transformers; without them the plain forward stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchroute.errors import first_line
from batchroute.router.fast import first_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def speed_up(model: PreTrainedModel) -> tuple[first_token.FirstToken | None, str | None]:
    """Replace parts of the model, where it is, by faster ones with the same results but for rounding.

    Returns:
        The shortened last layer, None if the architecture has none; and a sentence if this version of transformers
        differs from what the faster parts expect, so that the model keeps its plain forward.
    """
    try:
        if model.config.model_type == "deberta-v2":
            # Imports that model's code, which other routers need not load.
            from batchroute.router.fast import disentangled

            disentangled.speed_up(model)
        return first_token.shorten(model), None
    except (ImportError, AttributeError, TypeError) as error:
        return None, (
            f"{type(model).__name__} scores by transformers' plain forward, which is slower: this version of "
            f"transformers has no fast path ({first_line(error)})"
        )
