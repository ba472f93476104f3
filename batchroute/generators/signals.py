"""The signals of an answer: what the log-probabilities of its tokens say of it.

A token's log-probability is the natural logarithm of its probability under the model's own distribution, before
temperature, top_p and top_k. The tokens of an answer are those of its text and the end-of-sequence token, if the model
wrote one. Tokens from a stop string on are cut from the text and do not count. An answer that is cut at
`max_new_tokens`, or that does not pass a check (`invalid_response`), has the signals of the tokens that it has. A row
that failed or was refused has none.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import numpy as np

LOW = 0.1
"""The quantile of the low tail."""
LEAST = -100.0
"""The least log-probability. Endpoints write numbers such as −9999 for a token that they have no number for."""


def of_tokens(logprobs: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of the log-probabilities and their 10 % quantile, interpolated between tokens; None without tokens.

    A log-probability below `LEAST` counts as `LEAST`.
    """
    if not len(logprobs):
        return None, None
    values = np.sort(np.maximum(np.asarray(logprobs, np.float64), LEAST))
    at = LOW * (len(values) - 1)
    below = int(at)
    above = min(below + 1, len(values) - 1)
    return float(values.mean()), float(values[below] + (values[above] - values[below]) * (at - below))


def tokens_of_text(tokens: Sequence[int], length: int, decode: Callable[[Sequence[int]], str]) -> int:
    """The number of first tokens whose text holds the first `length` characters: those before a stop string's cut.

    Args:
        decode: the text of tokens.
    """
    # Texts grow with their tokens, but for a character that several tokens spell.
    return bisect.bisect_left(range(len(tokens)), length, key=lambda number: len(decode(tokens[:number])))
