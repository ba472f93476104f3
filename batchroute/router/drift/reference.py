"""The reference: what the calibration's rows looked like, to compare a night's rows with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.errors import InputError
from batchroute.router.drift.languages import language
from batchroute.router.notes import REFERENCE_FILE, read_noted

if TYPE_CHECKING:
    from batchroute.router.model import Router
    from batchroute.router.scores import Scores

Floats = NDArray[np.float32]

_SAMPLE = 1_000
_DECIMALS = 4
_DIGITS = 5
# More rows make the groups slower to find, but no better.
_CONTENT_ROWS = 2_000
_MOST_GROUPS = 16
_ROWS_A_GROUP = 30
_FOLDS = 10
_ROUNDS = 30
_TRIES = 3
_LEAST_SCALE = 0.1


class Content(BaseModel):
    """What the prompts were about: groups of their embeddings by the router's own encoder.

    Embeddings are standardised by `center` and `scale`, and only their direction counts. So neither a dimension in
    which all prompts are large, as encoders have some, nor a few outlying prompts dominate.

    Attributes:
        center, scale: mean and standard deviation of each dimension, shape [dimensions].
        centroids: means of directions, shape [groups, dimensions].
        counts: rows by their nearest centroid, in a sample.
        distances: sorted sample of the rows' distances, from 0 to 2, to centroids found without them.
    """

    model_config = ConfigDict(frozen=True)

    center: list[float]
    scale: list[float]
    centroids: list[list[float]]
    counts: list[int]
    distances: list[float]

    def places(self, embeddings: Floats) -> tuple[NDArray[np.int16], Floats]:
        """The number of each row's nearest group, and the distance to it: shapes [rows].

        Args:
            embeddings: shape [rows, dimensions], finite.

        Raises:
            InputError: the router's embeddings have another length than the reference's.
        """
        if embeddings.shape[1] != len(self.center):
            raise InputError(
                f"the router's embeddings have {embeddings.shape[1]} dimensions, those of its {REFERENCE_FILE} "
                f"{len(self.center)}: calibrate the router again"
            )
        center: Floats = np.array(self.center, np.float32)
        scale: Floats = np.array(self.scale, np.float32)
        return _nearest(_directions(embeddings, center, scale), np.array(self.centroids, np.float32))


class Reference(BaseModel):
    """`reference.json`.

    Attributes:
        rows: number of calibration rows.
        max_length: tokens that the router read of a prompt.
        scores, tokens: sorted samples; tokens count the whole prompt.
        languages: rows by language.
        content: None if the router's model exposes no embeddings.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    max_length: int
    scores: list[float]
    tokens: list[int]
    languages: dict[str, int]
    content: Content | None

    @classmethod
    def of(cls, router: str) -> Self | None:
        """The reference in the folder of this router; None if there is none.

        Raises:
            InputError: the file is damaged.
        """
        return read_noted(router, REFERENCE_FILE, cls)


def measure(router: Router, prompts: Sequence[str], scored: Scores, seed: int) -> Reference:
    """The reference of calibration rows. Costs 0.1 ms per row, and at most some seconds for the groups.

    Args:
        router: the router that scored them; it may be closed.
        prompts: shape [rows].
        scored: scores of these prompts; without embeddings the reference has no content.
        seed: of the groups.
    """
    known = scored.scores[~np.isnan(scored.scores)]
    return Reference(
        rows=len(prompts),
        max_length=router.max_length,
        scores=[round(float(score), _DECIMALS) for score in _sample(known)],
        tokens=[int(count) for count in _sample(scored.tokens)],
        languages=dict(Counter(language(prompt) for prompt in prompts).most_common()),
        content=None if scored.embeddings is None else _content(scored.embeddings, seed),
    )


def rounded(scores: Floats) -> Floats:
    """Scores with a reference's decimals. In further decimals, scores of equal prompts differ with their batch."""
    with_decimals: Floats = scores.round(_DECIMALS)
    return with_decimals


def _content(embeddings: Floats, seed: int, folds: int = _FOLDS, tries: int = _TRIES) -> Content | None:
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
    finite = embeddings[rng.permutation(known)[:_CONTENT_ROWS]]
    if len(finite) < 2 * _ROWS_A_GROUP:
        return None
    center, spread = finite.mean(axis=0), finite.std(axis=0)
    # A floor: dividing by the tiny spread of a dimension that hardly varies would amplify noise.
    scale = np.maximum(spread, _LEAST_SCALE * np.median(spread))
    scale[scale == 0.0] = 1.0
    rows = _directions(finite, center, scale)
    centroids = _centroids(rows, rng, tries)
    places, _ = _nearest(rows, centroids)
    distances = np.concatenate(list(_new_distances(rows, rng, folds, tries)))
    return Content(
        center=[float(f"{value:.7g}") for value in center],  # all digits: it may be far larger than the scale
        scale=_short(scale),
        centroids=[_short(centroid) for centroid in centroids],
        counts=np.bincount(places, minlength=len(centroids)).tolist(),
        distances=_short(_sample(distances)),
    )


def _directions(embeddings: Floats, center: Floats, scale: Floats) -> Floats:
    """Unit vectors, shape as `embeddings`."""
    standard: Floats = (embeddings - center) / scale
    lengths: Floats = np.sqrt((standard**2).sum(axis=1, keepdims=True))
    lengths[lengths == 0.0] = 1.0
    standard /= lengths
    return standard


def _new_distances(rows: Floats, rng: np.random.Generator, folds: int, tries: int) -> Iterator[Floats]:
    """Distances to centroids found without the row: rows are nearer to centroids found with them than new rows are."""
    order = rng.permutation(len(rows))
    for part in np.array_split(order, folds):
        others = rows[np.setdiff1d(order, part)]
        yield _nearest(rows[part], _centroids(others, rng, tries))[1]


def _centroids(rows: Floats, rng: np.random.Generator, tries: int) -> Floats:
    """The best of several k-means runs, started by k-means++ (Arthur and Vassilvitskii, 2007)."""
    groups = int(np.clip(len(rows) // _ROWS_A_GROUP, 1, _MOST_GROUPS))
    found = [_k_means(rows, groups, rng) for _ in range(tries)]
    return min(found, key=lambda centroids: float((_nearest(rows, centroids)[1] ** 2).sum()))


def _k_means(rows: Floats, groups: int, rng: np.random.Generator) -> Floats:
    chosen: Floats = rows[rng.integers(len(rows))][None]
    while len(chosen) < groups:
        squares = _nearest(rows, chosen)[1].astype(np.float64) ** 2
        if squares.sum() == 0.0:
            break
        chosen = np.concatenate([chosen, rows[rng.choice(len(rows), p=squares / squares.sum())][None]])
    places = np.full(len(rows), -1, np.int16)
    for _ in range(_ROUNDS):
        before, (places, _) = places, _nearest(rows, chosen)
        if (places == before).all():
            break
        within = (places == np.arange(len(chosen))[:, None]).astype(np.float32)
        counts = within.sum(axis=1, keepdims=True)
        # A group that lost all its rows keeps its centroid.
        chosen = np.where(counts == 0.0, chosen, within @ rows / np.maximum(counts, 1.0))
    return chosen


def _nearest(rows: Floats, centroids: Floats) -> tuple[NDArray[np.int16], Floats]:
    squares = (centroids**2).sum(axis=1) - 2.0 * rows @ centroids.T
    places = squares.argmin(axis=1).astype(np.int16)
    nearest = np.take_along_axis(squares, places[:, None].astype(np.intp), axis=1)[:, 0] + (rows**2).sum(axis=1)
    distances: Floats = np.sqrt(np.maximum(nearest, 0.0)).astype(np.float32)
    return places, distances


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """Sorted: all values, or `_SAMPLE` of them at even steps through the ranks, both ends included."""
    ordered: NDArray[Any] = np.sort(values)
    if len(ordered) <= _SAMPLE:
        return ordered
    chosen: NDArray[Any] = ordered[np.linspace(0, len(ordered) - 1, _SAMPLE).round().astype(np.intp)]
    return chosen


def _short(values: NDArray[Any]) -> list[float]:
    """Five significant digits, which keeps the file small."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]
