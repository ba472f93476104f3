"""Copies among some rows of a shard are those that the shard would have if it held these rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from batchroute.pipeline.shards.copies import NO_COPIES, Copies


def copies_of(prompts: np.ndarray, rows: np.ndarray) -> Copies:
    first: dict[int, int] = {}
    found = []
    for position in np.flatnonzero(rows).tolist():
        original = first.setdefault(int(prompts[position]), position)
        if original != position:
            found.append((position, original))
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return Copies(pairs[:, 0], pairs[:, 1])


@pytest.mark.parametrize("kinds", [1, 5, 60, 10_000])
def test_copies_among_some_rows(kinds: int) -> None:
    chance = np.random.default_rng(kinds)
    prompts = chance.integers(0, kinds, 200)
    whole = copies_of(prompts, np.ones(200, np.bool_))
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        rows = chance.random(200) < share
        among, wanted = whole.among(rows), copies_of(prompts, rows)
        assert among.copies.tolist() == wanted.copies.tolist()
        assert among.originals.tolist() == wanted.originals.tolist()


def test_no_copies_stay_none() -> None:
    assert not len(NO_COPIES.among(np.ones(3, np.bool_)).copies)
