"""Matching keys of tonight with the keys of files."""

from __future__ import annotations

import numpy as np

from batchroute.cache.matching import match


def test_each_wanted_key_is_found_in_the_first_file_that_has_it() -> None:
    rng = np.random.default_rng(0)
    # Few first halves, so that many keys begin alike; some keys are wanted twice, and files hold some twice.
    wanted = np.stack([rng.integers(0, 40, 300), rng.integers(0, 6, 300)], axis=1).astype(np.uint64)
    files = [np.stack([rng.integers(0, 40, n), rng.integers(0, 6, n)], axis=1).astype(np.uint64) for n in (5, 60, 90)]
    file_of, row_of = match(wanted, [files[0], None, files[1], np.empty((0, 2), np.uint64), files[2]])
    there = [{tuple(key) for key in file.tolist()} for file in files]
    numbers = (0, 2, 4)
    expected = [
        next((n for n, keys in zip(numbers, there, strict=True) if tuple(key) in keys), -1) for key in wanted.tolist()
    ]
    assert file_of.tolist() == expected
    assert {-1, *numbers} == set(expected)
    held = dict(zip(numbers, files, strict=True))
    for key, number, row in zip(wanted.tolist(), file_of.tolist(), row_of.tolist(), strict=True):
        assert number < 0 or held[number][row].tolist() == key


def test_no_wanted_key_and_no_file_match_nothing() -> None:
    nothing = np.empty((0, 2), np.uint64)
    assert [array.tolist() for array in match(nothing, [np.ones((1, 2), np.uint64)])] == [[], []]
    assert match(np.ones((2, 2), np.uint64), [])[0].tolist() == [-1, -1]
