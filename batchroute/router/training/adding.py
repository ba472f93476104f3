"""Adding the nights' measured rows to a quality table: audits, tonight's calibrations, newly labelled prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable


def table_of(path: str, responses: bool, say: Callable[[str], None]) -> QualityTable:
    """Read a table to learn from.

    Args:
        responses: with the small model's responses, and without the rows whose responses are not known.

    Raises:
        InputError: as `quality_table.read`.
    """
    table = quality_table.read(path, responses=responses)
    if table.responses is None:
        return table
    known = [row for row, texts in enumerate(table.responses) if texts]
    if len(known) < len(table):
        left = len(table) - len(known)
        say(f"{path}: {left:,} rows are left out, since they have not one response of the small model for each quality")
    return table.take(known)


def with_added(
    table: QualityTable,
    training: NDArray[np.intp],
    aside: Collection[str],
    paths: Sequence[str],
    say: Callable[[str], None],
) -> QualityTable:
    """The training rows of `table` and the rows of other tables of the same pair and metric.

    A prompt that several rows have becomes one row with the qualities of all of them, and their mean weight. Prompts of
    `table` that are left aside to choose or to test by stay so, wherever else they are measured.

    Args:
        training: row numbers in `table`.
        aside: prompts that must not be learned from, without white space around them.

    Raises:
        InputError: a table cannot be read, or is of another pair or metric.
    """
    if not paths:
        return table.take(training)
    rows: dict[str, _Row] = {}
    for row in training.tolist():
        _take(rows, table, row)
    sources = [table.sha256]
    for path in paths:
        added = table_of(path, table.responses is not None, say)
        _check(table, added)
        sources.append(added.sha256)
        before, new = len(rows), [row for row in range(len(added)) if added.prompts[row].strip() not in aside]
        for row in new:
            _take(rows, added, row)
        left = len(added) - len(new)
        say(
            f"{path}: {len(rows) - before:,} new prompts, {len(new) - (len(rows) - before):,} rows of known ones"
            + (f"; {left:,} rows are left out, since their prompts are kept aside" if left else "")
        )
    return QualityTable(
        path=table.path,
        sha256=hashlib.sha256(" ".join(sources).encode()).hexdigest(),
        prompts=[row.prompt for row in rows.values()],
        small=[np.concatenate(row.small) for row in rows.values()],
        large=[np.concatenate(row.large) for row in rows.values()],
        ids=None,
        tasks=None if table.tasks is None else [row.task for row in rows.values()],
        splits=None,
        metadata=table.metadata,
        failed=table.failed,
        weights=np.array([np.mean(row.weights) for row in rows.values()]),
        responses=None if table.responses is None else [row.responses for row in rows.values()],
    )


class _Row:
    def __init__(self, prompt: str, task: str | None) -> None:
        self.prompt, self.task = prompt, task
        self.small: list[NDArray[np.float64]] = []
        self.large: list[NDArray[np.float64]] = []
        self.weights: list[float] = []
        self.responses: list[str] = []


def _take(rows: dict[str, _Row], table: QualityTable, number: int) -> None:
    prompt = table.prompts[number]
    row = rows.setdefault(prompt.strip(), _Row(prompt, None if table.tasks is None else table.tasks[number]))
    row.small.append(table.small[number])
    row.large.append(table.large[number])
    row.weights.append(1.0 if table.weights is None else float(table.weights[number]))
    if table.responses is not None:
        row.responses += table.responses[number]


def _check(table: QualityTable, added: QualityTable) -> None:
    def known(key: str) -> tuple[Any, Any]:
        return table.metadata.get(key), added.metadata.get(key)

    own, other = known("metric")
    if own is not None and other is not None and own != other:
        raise InputError(
            f"the quality table '{added.path}' was measured by {other}, and '{table.path}' by {own}: figures of two "
            f"metrics do not mix, so measure its answers again by 'batchroute label {added.path} --metric {own}'"
        )
    if table.reference != added.reference:
        like = table if table.reference else added
        raise InputError(
            f"the qualities of '{like.path}' are likeness to the large model's answers, and those of the other table "
            "are not: figures of the two do not mix"
        )
    for side in SIDES:
        own, other = known(f"{side}_model")
        if own is not None and other is not None and own != other:
            raise InputError(
                f"the quality table '{added.path}' is of another pair than '{table.path}': its {side} model is "
                f"{other}, not {own}; leave it out"
            )
