"""The split: which rows of a quality table are trained on, and which validate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.tables.quality_table import QualityTable

_TRAIN, _VALIDATION = "train", "validation"


def split(table: QualityTable, validation: float, test: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers of the training and of the validation rows; no prompt is in both, or in one and among the others.

    A `split` column decides where there is one (`train`, `validation`; other rows are left aside). Otherwise shares of
    the different prompts, chosen by `seed`, validate and are left aside for tests; rows of the same prompt, white space
    around it apart, stay together.

    Raises:
        InputError: nothing would be left to train on, or the `split` column puts one prompt in both.
    """
    if table.splits is not None:
        return _given_split(table, table.splits)
    prompts, group = np.unique(
        np.array([prompt.strip() for prompt in table.prompts], dtype=object), return_inverse=True
    )
    shuffled = np.random.default_rng(seed).permutation(len(prompts))
    tested = round(test * len(prompts))
    part = np.zeros(len(prompts), dtype=np.int8)
    part[shuffled[:tested]] = 2
    part[shuffled[tested : tested + max(1, round(validation * len(prompts)))]] = 1
    if not (part == 0).any():
        raise InputError(
            f"the quality table '{table.path}' has {len(prompts):,} different prompts, too few to keep shares of "
            f"{validation:g} for validation and {test:g} for tests and train on others: lower the shares, or label "
            "more prompts"
        )
    return np.flatnonzero(part[group] == 0), np.flatnonzero(part[group] == 1)


def _given_split(table: QualityTable, splits: list[str | None]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    names = np.array([name or "" for name in splits], dtype=object)
    train, validation = np.flatnonzero(names == _TRAIN), np.flatnonzero(names == _VALIDATION)
    for name, rows in ((_TRAIN, train), (_VALIDATION, validation)):
        if len(rows) == 0:
            raise InputError(
                f"the column 'split' of the quality table '{table.path}' has no row '{name}': "
                f"mark rows as {_TRAIN} and {_VALIDATION}, or drop the column to have them split by prompt"
            )
    trained = {table.prompts[row].strip() for row in train}
    for row in validation:
        if table.prompts[row].strip() in trained:
            number = row + 1 if table.numbers is None else table.numbers[row]
            raise InputError(
                f"the prompt in row {number:,} of the quality table '{table.path}' is in both {_TRAIN} and "
                f"{_VALIDATION}: leave it in one, or drop the column 'split' to have rows split by prompt"
            )
    return train, validation
