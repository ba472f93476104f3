"""Drift in plain words, one sentence per feature, for the operator on call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchroute.router.drift.languages import UNKNOWN, language_name
from batchroute.router.drift.statistics import Counts, ks

Values = NDArray[Any]

# If the night's median is within this share of ranks of the calibration's, the sentence is about the spread instead.
_MOVED = 0.1
_GREW = 1.5


def score_words(ordered: Values, known: Values, drifted: bool) -> str:
    """About the night's scores and the calibration's, both sorted."""
    now, before = _apart(_median(ordered), _median(known))
    if not drifted:
        return f"Scores are as they were: median {now}, {before} in the calibration."
    rank = _rank(ordered, known)
    if abs(rank - 0.5) < _MOVED:
        return f"Scores are spread differently: {_tails(ordered, known)}."
    return f"Scores are {'higher' if rank > 0.5 else 'lower'}: median {now}, {before} in the calibration."


def length_words(ordered: Values, known: Values, drifted: bool) -> str:
    """About the tokens of the night's prompts and of the calibration's, both sorted."""
    now, before = f"{_median(ordered):,.0f}", f"{_median(known):,.0f}"
    if not drifted:
        return f"Prompts are as long as they were: median {now} tokens, {before} in the calibration."
    rank = _rank(ordered, known)
    if abs(rank - 0.5) < _MOVED:
        return f"Prompts differ in length: {_tails(ordered, known, ' tokens')}."
    if rank > 0.5:
        return f"Prompts are longer: half have more than {now} tokens, {before} in the calibration."
    return f"Prompts are shorter: half have fewer than {now} tokens, {before} in the calibration."


def language_words(languages: dict[str, int], known: dict[str, int], drifted: bool) -> str:
    """About rows by language, the night's and the calibration's."""
    whole, known_whole = sum(languages.values()), sum(known.values())
    change = {code: languages.get(code, 0) / whole - known.get(code, 0) / known_whole for code in known | languages}
    # If one language grew as much as another shrank, name the one that grew.
    moved = max(change, key=lambda code: (round(abs(change[code]), 6), change[code], code))
    code = moved if drifted else max(known, key=lambda code: (known[code], code))
    what = "in no recognisable language" if code == UNKNOWN else f"in {language_name(code)}"
    now, before = percent(languages.get(code, 0) / whole), percent(known.get(code, 0) / known_whole)
    figures = f"{now} of the prompts are {what}, {before} in the calibration."
    return f"{figures[0].upper()}{figures[1:]}" if drifted else f"Languages are as they were: {figures}"


def content_words(places: Counts, known_places: Counts, distances: Values, known: Values, drifted: bool) -> str:
    """About rows by nearest group and sorted distances to it, both the night's and the calibration's."""
    now, before = places / places.sum(), known_places / known_places.sum()
    rank = _rank(distances, known)
    if not drifted:
        return f"Prompts are about the same things: half are farther from a group than {percent(rank)} were."
    # Did rows move away from all groups more than between them?
    if rank > 0.5 and ks(distances, known) > np.abs(now - before).sum() / 2:
        return (
            f"Prompts are unlike those of the calibration: half are farther from all of its groups than "
            f"{percent(rank)} of its own."
        )
    moved = now > _GREW * before
    if not moved.any():
        moved = before > _GREW * now
    groups = "a group" if moved.sum() == 1 else f"{int(moved.sum())} groups"
    return (
        f"Prompts are about other things: {percent(float(now[moved].sum()))} lie nearest to {groups} that held "
        f"{percent(float(before[moved].sum()))} of the calibration."
    )


def percent(share: float) -> str:
    """`none`, `under 1 %`, `12 %`, `all`."""
    if share <= 0.0:
        return "none"
    if share >= 1.0:
        return "all"
    return "under 1 %" if share < 0.01 else "over 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def _median(ordered: Values) -> float:
    return float(ordered[len(ordered) // 2])


def _rank(ordered: Values, known: Values) -> float:
    """The share of the calibration below the night's median; equal rows count half."""
    middle = ordered[len(ordered) // 2]
    return float(np.searchsorted(known, middle) + np.searchsorted(known, middle, side="right")) / 2 / len(known)


def _tails(ordered: Values, known: Values, unit: str = "") -> str:
    low, known_low = _apart(*(float(values[len(values) // 10]) for values in (ordered, known)))
    high, known_high = _apart(*(float(values[-1 - len(values) // 10]) for values in (ordered, known)))
    return (
        f"a tenth are below {low} and a tenth above {high}{unit}, in the calibration below {known_low} and above "
        f"{known_high}"
    )


def _apart(now: float, before: float) -> tuple[str, str]:
    """Both numbers with as few decimals as show their difference: none for whole numbers, else two to four."""
    if now.is_integer() and before.is_integer():
        return f"{now:,.0f}", f"{before:,.0f}"
    for decimals in (2, 3):
        texts = f"{now:.{decimals}f}", f"{before:.{decimals}f}"
        if texts[0] != texts[1]:
            return texts
    return f"{now:.4f}", f"{before:.4f}"
