from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from batchroute.router.drift import measure as drift
from batchroute.router.drift import reference
from batchroute.router.drift.measure import Drift, Feature, Night
from batchroute.router.drift.reference import Reference
from batchroute.router.model import Router
from batchroute.router.scores import Scores
from tests.support.tiny_models import tiny_router

ENGLISH = "Which of these words is a fruit?"
TASKS, DIMENSIONS = 8, 24
_RNG = np.random.default_rng(7)
CENTERS = _RNG.normal(0, 2, (TASKS, DIMENSIONS))
EASE, LENGTH = _RNG.normal(0, 1, TASKS), _RNG.uniform(3, 5, TASKS)


def rows_of(tasks: np.ndarray, rng: np.random.Generator) -> Scores:
    """Rows of the given tasks, each with scores, lengths and embeddings of its own kind."""
    scores = 1 / (1 + np.exp(-rng.normal(EASE[tasks], 0.7)))
    tokens = np.exp(rng.normal(LENGTH[tasks], 0.5)).astype(np.int32) + 3
    embeddings = CENTERS[tasks] + rng.normal(0, 1, (len(tasks), DIMENSIONS))
    return Scores(scores.astype(np.float32), tokens, np.zeros(len(tasks), bool), embeddings.astype(np.float32))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    router = Router.load(str(tiny_router(tmp_path_factory.mktemp("drift") / "router")), torch.device("cpu"))
    rng = np.random.default_rng(0)
    return reference.measure(router, [ENGLISH] * 500, rows_of(rng.integers(0, TASKS, 500), rng), seed=0)


def night_of(known: Reference, scored: Scores, languages: dict[str, int] | None = None) -> Night:
    assert known.content is not None
    assert scored.embeddings is not None
    places, distances = known.content.places(scored.embeddings)
    return Night(scored.scores, scored.tokens, languages or {"en": 64}, np.bincount(places), distances)


def night(known: Reference, rows: int, seed: int, shares: np.ndarray | None = None, **changes: object) -> Night:
    rng = np.random.default_rng(seed)
    measured = night_of(known, rows_of(rng.choice(TASKS, rows, p=shares), rng))
    values = {name: getattr(measured, name) for name in Night.__slots__}
    return Night(**(values | changes))


def feature(measured: Drift, name: str) -> Feature:
    return next(one for one in measured.features if one.name == name)


@pytest.mark.parametrize("rows", [40, 118, 1_000])
def test_nights_of_new_rows_like_the_calibrations_raise_no_alarm(known: Reference, rows: int) -> None:
    alarms = [drift.measure(known, night(known, rows, seed)).drifted for seed in range(60)]
    assert sum(alarms) <= 2


@pytest.mark.parametrize("rows", [200, 1_000])
def test_nights_without_half_of_the_tasks_raise_one(known: Reference, rows: int) -> None:
    alarms = []
    for seed in range(40):
        gone = np.random.default_rng(seed).permutation(TASKS)[: TASKS // 2]
        shares = np.isin(np.arange(TASKS), gone, invert=True) / (TASKS / 2)
        alarms.append(drift.measure(known, night(known, rows, seed, shares)).drifted)
    assert sum(alarms) >= 38


def test_a_trifle_in_a_million_rows_is_certain_but_no_alarm(known: Reference) -> None:
    scores = np.repeat(np.array(known.scores, np.float32), 2_000)
    measured = drift.measure(known, night(known, 200, 0, scores=np.minimum(scores + np.float32(0.03), 1)))
    its = feature(measured, "score")
    assert its.ks is not None
    assert 0.02 < its.ks < 0.15
    assert not its.drifted


def test_longer_prompts_are_reported_by_their_medians(known: Reference) -> None:
    tokens = np.sort(night(known, 501, 1).tokens) * 3
    its = feature(drift.measure(known, night(known, 501, 1, tokens=tokens)), "length")
    assert its.drifted
    assert its.p_value < 1e-6
    assert its.words == (
        f"Prompts are longer: half have more than {tokens[250]:,} tokens, {known.tokens[250]} in the calibration."
    )


def test_lower_scores_are_reported_by_their_medians(known: Reference) -> None:
    scores = night(known, 501, 1).scores * np.float32(0.4)
    its = feature(drift.measure(known, night(known, 501, 1, scores=scores)), "score")
    assert its.drifted
    assert its.words.startswith(f"Scores are lower: median {np.sort(scores)[250]:.2f}, ")


def test_scores_that_only_spread_are_reported_by_their_tails(known: Reference) -> None:
    middle = np.float32(np.median(known.scores))
    scores = np.where(np.arange(400) % 2 == 0, middle - np.float32(0.4), middle + np.float32(0.4)).astype(np.float32)
    its = feature(drift.measure(known, night(known, 400, 1, scores=scores)), "score")
    assert its.drifted
    assert its.words.startswith("Scores are ")


def test_another_language_is_reported_by_its_share(known: Reference) -> None:
    measured = drift.measure(known, night(known, 400, 1, languages={"en": 112, "de": 16}))
    its = feature(measured, "language")
    assert its.drifted
    assert its.ks is None
    assert its.words == "12 % of the prompts are in German, none in the calibration."
    assert measured.sentence() == f"Drift: {its.words}"
    assert not feature(drift.measure(known, night(known, 400, 1, languages={"en": 127, "de": 1})), "language").drifted


def test_another_mix_is_reported_by_the_groups_that_grew(known: Reference) -> None:
    shares = np.array([0.6, *[0.4 / (TASKS - 1)] * (TASKS - 1)])
    measured = drift.measure(known, night(known, 500, 3, shares))
    assert feature(measured, "content").drifted
    assert "Prompts are about other things: " in measured.sentence()
    assert " of the calibration." in measured.sentence()


def test_prompts_far_from_all_groups_are_reported_as_unlike(known: Reference) -> None:
    rng = np.random.default_rng(5)
    scored = rows_of(rng.integers(0, TASKS, 500), rng)
    assert scored.embeddings is not None
    scored.embeddings[:] += rng.normal(0, 4, scored.embeddings.shape)
    its = feature(drift.measure(known, night_of(known, scored)), "content")
    assert its.drifted
    assert its.words.startswith("Prompts are unlike those of the calibration: half are farther from all of its groups")


def test_rows_that_an_earlier_calibration_placed_tell_nothing_of_content(known: Reference) -> None:
    measured = drift.measure(known, night(known, 300, 1, places=np.full(40, 10)))
    assert {one.name for one in measured.features} == {"score", "length", "language"}


def test_rows_nearer_to_the_groups_are_no_alarm_and_rows_farther_are(known: Reference) -> None:
    assert known.content is not None
    distances = np.array(known.content.distances, np.float32)
    for factor, drifted in ((0.5, False), (1.5, True)):
        measured = drift.measure(known, night(known, 500, 1, distances=factor * distances))
        assert feature(measured, "content").drifted is drifted


def test_a_night_of_few_rows_has_no_features(known: Reference) -> None:
    measured = drift.measure(known, night(known, 12, 0, languages={"de": 12}))
    assert measured.features == []
    assert not measured.drifted
    assert measured.sentence() == "Drift: 12 rows are too few to tell."


def test_without_drift_each_feature_says_so(known: Reference) -> None:
    measured = drift.measure(known, night(known, 300, 11))
    assert measured.sentence() == "No drift: 300 rows look like the 500 of the calibration."
    assert [one.name for one in measured.features] == ["score", "length", "language", "content"]
    assert all(one.words.endswith(".") for one in measured.features)
    assert feature(measured, "language").words == (
        "Languages are as they were: all of the prompts are in English, all in the calibration."
    )


def scored_table(rows: int, **columns: object) -> pa.Table:
    values = {
        "score": np.linspace(0, 1, rows, dtype=np.float32),
        "tokens": pa.array(range(rows), pa.int32()),
        "error_type": pa.nulls(rows, pa.string()),
        "language": pa.nulls(rows, pa.string()),
        "place": pa.nulls(rows, pa.int16()),
        "distance": pa.nulls(rows, pa.float32()),
    }
    return pa.table(values | columns)


def test_a_night_is_gathered_without_bad_rows_and_nulls() -> None:
    table = scored_table(
        4,
        score=pa.array([0.5, None, 0.25, None], pa.float32()),
        tokens=pa.array([5, 6, 7, None], pa.int32()),
        error_type=pa.array([None, None, None, "null_prompt"]),
        language=pa.array(["en", None, "de", None]),
        place=pa.array([2, 0, None, None], pa.int16()),
        distance=pa.array([0.5, 0.25, None, None], pa.float32()),
    )
    measured = Night.gather(iter([table, scored_table(0), table]))
    assert measured.scores.tolist() == [0.5, 0.25] * 2
    assert measured.tokens.tolist() == [5, 6, 7] * 2
    assert measured.languages == {"en": 2, "de": 2}
    assert measured.places is not None
    assert measured.places.tolist() == [2, 0, 2]
    assert measured.distances is not None
    assert measured.distances.tolist() == [0.5, 0.25] * 2


def test_files_of_earlier_versions_tell_scores_and_lengths(known: Reference) -> None:
    table = scored_table(100).select(["score", "tokens", "error_type"])
    measured = Night.gather([table])
    assert (measured.languages, measured.places, measured.distances) == (None, None, None)
    assert [one.name for one in drift.measure(known, measured).features] == ["score", "length"]


def test_of_a_run_that_an_update_met_the_new_files_tell_the_rest() -> None:
    old = scored_table(3).select(["score", "tokens", "error_type"])
    new = scored_table(2, language=["en", "en"], place=pa.array([1, 1], pa.int16()), distance=np.ones(2, np.float32))
    measured = Night.gather([old, new])
    assert len(measured.tokens) == 5
    assert measured.places is not None
    assert (measured.places.tolist(), measured.languages) == ([0, 2], {"en": 2})


def test_no_tables_make_an_empty_night(known: Reference) -> None:
    measured = drift.measure(known, Night.gather([]))
    assert (measured.rows, measured.features) == (0, [])
