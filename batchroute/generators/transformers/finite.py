"""Rows for which a model gives no numbers: NaN or infinite logits, as of damaged weights or of half precision.

A token would be chosen from them all the same, and the answer would look like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from batchroute.errors import InputError
from batchroute.generators.base import Response
from batchroute.generators.transformers.rows import Request

_NO_NUMBERS = "the model gives no numbers (NaN or infinite logits)"
_HOPELESS = 20


def finite_rows(scores: torch.Tensor) -> torch.Tensor:
    """Whether each row's logits are numbers: bool [rows]. −∞ is none of the model's likeliest tokens, and allowed.

    Args:
        scores: the model's own logits, of shape [rows, vocabulary].
    """
    # The greatest of a row is NaN if any of its logits is.
    return scores.amax(dim=-1).isfinite()


class FiniteLogits:
    """Whether the logits that `generate` chooses from are numbers, row by row; a row without ends at once.

    `processor` sees the model's own scores of a step, and `criterion` ends rows.
    """

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def processor(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.FloatTensor:
        self._steps.append(finite_rows(scores))
        return scores

    def criterion(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        return ~self._steps[-1]  # type: ignore[return-value]

    def of_rows(self, lengths: Sequence[int]) -> list[bool]:
        """Whether the first steps of each row were numbers; after its end they are of padding.

        Args:
            lengths: the tokens that each row wrote.
        """
        steps: list[list[bool]] = torch.stack(self._steps, dim=1).tolist()
        return [all(row[:length]) for row, length in zip(steps, lengths, strict=True)]


def no_numbers(request: Request) -> Response:
    return Response(input_tokens=len(request.tokens), error_type="model_error", error=_NO_NUMBERS)


class Streak:
    """Counts the rows in a row without numbers: another attempt would give none either."""

    def __init__(self, model: str, dtype: torch.dtype, quantization: str | None) -> None:
        self._model, self._dtype, self._quantization = model, str(dtype).removeprefix("torch."), quantization
        self._rows = 0

    def count(self, responses: Sequence[Response]) -> None:
        """Raises:
        InputError: 20 rows in a row had no numbers.
        """
        for response in responses:
            if response.error == _NO_NUMBERS:
                self._rows += 1
            elif response.answered:
                self._rows = 0
            if self._rows == _HOPELESS:
                raise InputError(
                    f"the model '{self._model}' gives no numbers (NaN or infinite logits) for {_HOPELESS} rows in a "
                    f"row, computed in {self._dtype}: {self._advice()}"
                )

    def _advice(self) -> str:
        if self._quantization is not None:
            return "leave out quantization, or name another model"
        if self._dtype == "float32":
            return "its weights are damaged, so fetch them again or name another model"
        return "set dtype to " + ("bfloat16 or float32" if self._dtype == "float16" else "float32")
