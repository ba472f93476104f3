"""Measuring drift: whether tonight's rows look like the calibration's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.router.drift.reference import Content, Reference, rounded
from batchroute.router.drift.statistics import Counts, bins, ks, ks_p_value, psi, psi_by_chance, shares_p_value
from batchroute.router.drift.words import content_words, language_words, length_words, score_words

# Chance alone raises an alarm on at most this share of nights, over all statistics of all features together.
_FALSE_ALARMS = 0.01
_STATISTICS = 7
_LEVEL = _FALSE_ALARMS / _STATISTICS
# A smaller shift does not matter, however significant it is. Credit scoring acts on a PSI above 0.2.
_LEAST_PSI = 0.2
_LEAST_KS = 0.15
_LEAST_ROWS = 20
_RARE = 0.01


class Feature(BaseModel):
    """One property of the rows that is compared.

    Attributes:
        psi: population stability index, without correction for chance.
        ks: Kolmogorov-Smirnov distance of the two distributions; None for a feature without an order.
        p_value: the smaller of the two statistics' p-values, not corrected for the number of features.
        words: one sentence for an operator.
    """

    model_config = ConfigDict(frozen=True)

    name: Literal["score", "length", "language", "content"]
    psi: float
    ks: float | None
    p_value: float
    drifted: bool
    words: str


class Drift(BaseModel):
    """Tonight's rows compared with the calibration's.

    Attributes:
        features: those that could be compared; none for a night of very few rows.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    reference_rows: int
    features: list[Feature]

    @property
    def drifted(self) -> bool:
        return any(feature.drifted for feature in self.features)

    def sentence(self) -> str:
        words = [feature.words for feature in self.features if feature.drifted]
        if words:
            return f"Drift: {' '.join(words)}"
        if not self.features:
            return f"Drift: {self.rows:,} rows are too few to tell."
        return f"No drift: {self.rows:,} rows look like the {self.reference_rows:,} of the calibration."


@dataclass(frozen=True, slots=True)
class Night:
    """What tonight's rows with a usable prompt look like.

    Attributes:
        scores: float32 [rows with a score].
        tokens: int32 [rows], of the whole prompt, by the router's tokenizer.
        languages: rows by language, over the rows whose language was detected; None if there are none.
        places: rows by the nearest group of the reference's content; None without content.
        distances: float32, distances to the nearest group's centroid; None without content.
    """

    scores: NDArray[np.float32]
    tokens: NDArray[np.int32]
    languages: dict[str, int] | None
    places: Counts | None
    distances: NDArray[np.float32] | None

    @classmethod
    def gather(cls, tables: Iterable[pa.Table]) -> Night:
        """From the tables that scoring wrote, with the columns score, tokens, error_type and, if the router has a
        reference, language, place and distance. Costs 12 bytes per row."""
        scores: list[NDArray[np.float32]] = []
        tokens: list[NDArray[np.int32]] = []
        distances: list[NDArray[np.float32]] = []
        languages: Counter[str] = Counter()
        places = np.zeros(0, np.int64)
        for table in tables:
            usable = table.filter(table["error_type"].is_null())
            scores.append(_known(usable, "score", np.float32))
            tokens.append(_known(usable, "tokens", np.int32))
            distances.append(_known(usable, "distance", np.float32))
            if "language" in usable.column_names:
                languages.update(code for code in usable["language"].to_pylist() if code is not None)
            counts = np.bincount(_known(usable, "place", np.int64), minlength=len(places))
            counts[: len(places)] += places
            places = counts
        with_content = any(len(part) for part in distances)
        return cls(
            scores=_joined(scores, np.float32),
            tokens=_joined(tokens, np.int32),
            languages=dict(languages) or None,
            places=places.astype(np.int64) if with_content else None,
            distances=_joined(distances, np.float32) if with_content else None,
        )


@dataclass(frozen=True, slots=True)
class _Shift:
    psi: float
    ks: float | None
    p_value: float
    drifted: bool


def measure(reference: Reference, night: Night) -> Drift:
    """Compare a night with the calibration.

    A feature has drifted if its shift is both too large for chance and large enough to matter: by its PSI, less what
    chance adds, or by the Kolmogorov-Smirnov distance. So neither the noise of a small night nor a tiny shift in
    millions of rows is an alarm. Costs a sorted copy of one column at a time.
    """
    compared = (
        _score(reference, night),
        _length(reference, night),
        _language(reference, night),
        None if reference.content is None else _content(reference.content, night),
    )
    features = [feature for feature in compared if feature is not None]
    return Drift(rows=len(night.tokens), reference_rows=reference.rows, features=features)


def _score(reference: Reference, night: Night) -> Feature | None:
    known, scores = np.array(reference.scores, np.float32), rounded(night.scores)
    scores.sort()
    if min(len(scores), len(known)) < _LEAST_ROWS:
        return None
    shift = _shift(*bins(scores, known), scores, known)
    return Feature(name="score", words=score_words(scores, known, shift.drifted), **asdict(shift))


def _length(reference: Reference, night: Night) -> Feature | None:
    known, tokens = np.array(reference.tokens, np.int32), np.sort(night.tokens)
    if min(len(tokens), len(known)) < _LEAST_ROWS:
        return None
    shift = _shift(*bins(tokens, known), tokens, known)
    return Feature(name="length", words=length_words(tokens, known, shift.drifted), **asdict(shift))


def _language(reference: Reference, night: Night) -> Feature | None:
    known, languages = reference.languages, night.languages or {}
    whole, known_whole = sum(languages.values()), sum(known.values())
    if min(whole, known_whole) < _LEAST_ROWS:
        return None
    common = [
        code
        for code in known | languages
        if max(languages.get(code, 0) / whole, known.get(code, 0) / known_whole) >= _RARE
    ]

    def counts(by_code: dict[str, int], rows: int) -> Counts:
        of_common = [by_code.get(code, 0) for code in common]
        return np.array([*of_common, rows - sum(of_common)])

    shift = _shift(counts(languages, whole), counts(known, known_whole))
    return Feature(name="language", words=language_words(languages, known, shift.drifted), **asdict(shift))


def _content(content: Content, night: Night) -> Feature | None:
    if night.places is None or night.distances is None:
        return None
    known, distances = np.array(content.distances, np.float32), np.sort(night.distances)
    # More groups than the reference has: the router was calibrated again after these rows were scored.
    if min(len(distances), len(known)) < _LEAST_ROWS or len(night.places) > len(content.counts):
        return None
    known_places = np.array(content.counts, np.int64)
    places = np.zeros_like(known_places)
    places[: len(night.places)] = night.places
    # Rows that are nearer to the groups than the calibration's new rows are no drift.
    farther = bool(np.median(distances) > np.median(known))
    shift = _shift(places, known_places, distances, known, farther)
    words = content_words(places, known_places, distances, known, shift.drifted)
    return Feature(name="content", words=words, **asdict(shift))


def _shift(
    counts: Counts,
    known_counts: Counts,
    ordered: NDArray[np.generic] | None = None,
    known: NDArray[np.generic] | None = None,
    values_matter: bool = True,
) -> _Shift:
    """The shift of counts by category and, if given, of sorted values.

    Args:
        values_matter: whether the distance of the values may raise an alarm.
    """
    index, p_value = psi(counts, known_counts), shares_p_value(counts, known_counts)
    drifted = p_value < _LEVEL and index - psi_by_chance(counts, known_counts) > _LEAST_PSI
    if ordered is None or known is None:
        return _Shift(index, None, p_value, drifted)
    distance = ks(ordered, known)
    chance = ks_p_value(distance, len(ordered), len(known))
    if not values_matter:
        return _Shift(index, distance, p_value, drifted)
    return _Shift(index, distance, min(p_value, chance), drifted or (chance < _LEVEL and distance > _LEAST_KS))


def _known(table: pa.Table, column: str, kind: type[np.generic]) -> NDArray[Any]:
    """The column's values without null and NaN; none if the table lacks it, as tables of earlier versions do."""
    if column not in table.column_names:
        return np.zeros(0, kind)
    values: NDArray[Any] = table[column].drop_null().to_numpy().astype(kind, copy=False)
    return values if values.dtype.kind == "i" else values[~np.isnan(values)]


def _joined(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, kind)
