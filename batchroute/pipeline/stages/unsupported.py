"""Rows whose prompts hold more than text, images for example: the small model gets none of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchroute.pipeline import layout
from batchroute.pipeline.context import Context
from batchroute.prompt import other_than_text
from batchroute.tables.chats import BadPrompt


def unsupported_rows(context: Context) -> NDArray[np.bool_]:
    """Which rows those are, shape [rows]. Only chunks whose receipts count such rows are read."""
    unsupported = np.zeros(context.snapshot.rows, np.bool_)
    scored = context.work.stage(layout.SCORE).receipts()
    chunks = [chunk for chunk in context.snapshot.chunks() if scored[chunk.unit].counts.get("unsupported", 0)]
    reader = context.table.reader(context.prompts.columns) if chunks else None
    for chunk in chunks:
        assert reader is not None
        batches = reader.read(chunk.start, chunk.stop)
        prompts = [prompt for batch in batches for prompt in context.prompts.read(batch)]
        unsupported[chunk.start : chunk.stop] = [
            not isinstance(prompt, BadPrompt) and other_than_text(prompt) is not None for prompt in prompts
        ]
    return unsupported
