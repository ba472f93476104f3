"""The rows that a reader of answers learns from: a response each, with the prompt that it answers."""

from __future__ import annotations

import dataclasses

import numpy as np

from batchroute.router.reading import Reads, joined
from batchroute.tables.quality_table import QualityTable


def one_a_response(table: QualityTable) -> QualityTable:
    """A row for each of the small model's responses, with its own quality; all rows of a prompt together weigh as much
    as it did.

    So the labels are of single answers, which is what a job has: `det` says whether this response is as good as the
    large model's first, `prob` how often it is as good as one of the large model's, `gap` how far it is above their
    mean.
    """
    assert table.responses is not None
    counts = np.array([len(texts) for texts in table.responses])
    row = np.repeat(np.arange(len(table)), counts)
    weights = np.ones(len(table)) if table.weights is None else table.weights
    return dataclasses.replace(
        table.take(row),
        small=[np.array([quality]) for qualities in table.small for quality in qualities],
        responses=[[text] for texts in table.responses for text in texts],
        weights=(weights / counts)[row],
    )


def texts_of(table: QualityTable, reads: Reads) -> list[str]:
    """What a router reads of each row; for a reader of answers a row has one response."""
    if reads == "prompt":
        return table.prompts
    assert table.responses is not None
    return [joined(prompt, texts[0]) for prompt, texts in zip(table.prompts, table.responses, strict=True)]
