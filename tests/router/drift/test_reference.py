from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from batchroute.errors import InputError
from batchroute.router.drift import reference
from batchroute.router.drift.reference import Content, Reference
from batchroute.router.model import Router
from batchroute.router.scores import Scores
from batchroute.router.scoring import score
from tests.support.jobs import prompts
from tests.support.tiny_models import POSITIONS, tiny_router

CPU = torch.device("cpu")
PROMPTS = prompts(200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_router(tmp_path_factory.mktemp("reference") / "router")


@pytest.fixture(scope="module")
def router(folder: Path) -> Router:
    return Router.load(str(folder), CPU)


@pytest.fixture(scope="module")
def scored(router: Router) -> Scores:
    return score(router, PROMPTS, with_embeddings=True)


def clusters(rows: int, dimensions: int, seed: int, apart: float = 3.0) -> np.ndarray:
    """Rows around four centers, one after another in turn."""
    centers = np.random.default_rng(99).normal(0, apart, (4, dimensions))
    measured: np.ndarray = centers[np.arange(rows) % 4] + np.random.default_rng(seed).normal(0, 1, (rows, dimensions))
    return measured.astype(np.float32)


def content_of(embeddings: np.ndarray, **settings: int) -> Content:
    measured = reference._content(embeddings, 0, **settings)
    assert measured is not None
    return measured


def test_it_holds_what_the_rows_looked_like(router: Router, scored: Scores) -> None:
    measured = reference.measure(router, PROMPTS, scored, seed=0)
    assert (measured.rows, measured.max_length) == (200, POSITIONS)
    np.testing.assert_allclose(measured.scores, np.sort(scored.scores), atol=1e-4)
    assert measured.tokens == np.sort(scored.tokens).tolist()
    assert sum(measured.languages.values()) == 200
    assert measured.content is not None
    assert sum(measured.content.counts) == len(measured.content.distances) == 200
    assert measured == reference.measure(router, PROMPTS, scored, seed=0), "the seed decides"


def test_it_comes_back_from_the_routers_folder(router: Router, scored: Scores, tmp_path: Path) -> None:
    folder = tiny_router(tmp_path / "router")
    assert Reference.of(str(folder)) is None
    measured = reference.measure(router, PROMPTS, scored, seed=0)
    (folder / "reference.json").write_text(measured.model_dump_json())
    assert Reference.of(str(folder)) == measured


def test_a_damaged_one_is_refused_by_the_place(router: Router, scored: Scores, tmp_path: Path) -> None:
    folder = tiny_router(tmp_path / "router")
    values = reference.measure(router, PROMPTS, scored, seed=0).model_dump()
    values["content"]["counts"] = "many"
    (folder / "reference.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"is damaged at content\.counts: calibrate the router again"):
        Reference.of(str(folder))


def test_a_router_without_embeddings_has_no_content_and_nan_scores_are_left_out(router: Router, scored: Scores) -> None:
    scores = scored.scores.copy()
    scores[:50] = np.nan
    measured = reference.measure(router, PROMPTS, Scores(scores, scored.tokens, scored.truncated), seed=0)
    assert measured.content is None
    assert len(measured.scores) == 150


def test_few_rows_have_no_content() -> None:
    assert reference._content(clusters(59, 8, seed=0), 0) is None


def test_groups_are_those_that_the_prompts_form() -> None:
    content = content_of(clusters(800, 16, seed=1))
    places, distances = content.places(clusters(400, 16, seed=2))
    for group in range(4):
        inside = set(places[group::4].tolist())
        assert inside.isdisjoint(places[(group + 1) % 4 :: 4].tolist())
    assert distances.dtype == np.float32


def test_new_rows_are_as_far_from_the_groups_as_the_reference_says() -> None:
    # In many dimensions rows are much nearer to centroids that were made of them.
    content = content_of(clusters(500, 128, seed=1, apart=0.5))
    new = np.median(content.places(clusters(500, 128, seed=2, apart=0.5))[1])
    own = np.median(content.places(clusters(500, 128, seed=1, apart=0.5))[1])
    said = np.median(content.distances)
    assert abs(said - new) < 0.2 * (new - own)


def test_a_dimension_that_is_large_for_all_rows_does_not_decide() -> None:
    rows = clusters(800, 16, seed=1)
    rows[:, 0] = 500.0 + 1e-3 * np.random.default_rng(3).normal(size=800)
    content = content_of(rows)
    places, _ = content.places(rows)
    assert all(set(places[i::4].tolist()).isdisjoint(places[(i + 1) % 4 :: 4].tolist()) for i in range(4))


def test_equal_rows_and_rows_without_numbers_make_no_trouble() -> None:
    content = content_of(np.ones((100, 8), np.float32))
    assert np.isfinite(content.places(np.ones((3, 8), np.float32))[1]).all()
    rows = clusters(200, 8, seed=0)
    rows[::2] = np.nan
    assert sum(content_of(rows).counts) == 100


def test_embeddings_of_another_length_are_refused() -> None:
    content = content_of(clusters(100, 8, seed=0))
    with pytest.raises(
        InputError, match=r"have 9 dimensions, those of its reference\.json 8: calibrate the router again"
    ):
        content.places(np.zeros((2, 9), np.float32))


def test_the_file_stays_small_for_a_large_encoder() -> None:
    content = content_of(clusters(480, 1_024, seed=0), folds=2, tries=1)
    assert len(content.centroids) == 16
    assert len(content.model_dump_json()) < 250_000


def test_of_many_rows_a_sample_from_end_to_end_is_kept(router: Router) -> None:
    scored = Scores(np.linspace(0, 1, 1_200, dtype=np.float32), np.arange(1_200, dtype=np.int32), np.zeros(1_200, bool))
    measured = reference.measure(router, ["12 + 30"] * 1_200, scored, seed=0)
    assert len(measured.scores) == len(measured.tokens) == 1_000
    assert (measured.tokens[0], measured.tokens[500], measured.tokens[-1]) == (0, 600, 1_199)
    assert measured.languages == {"unknown": 1_200}
