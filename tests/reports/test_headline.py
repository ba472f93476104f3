from __future__ import annotations

from collections.abc import Callable

import pytest

from batchroute.reports.headline import against_random, headline
from batchroute.reports.night import Deciding, NightReport
from tests.reports import nights


@pytest.mark.parametrize(
    ("night", "sentence"),
    [
        (
            nights.full,
            "Routing 120,000 prompts cost $84.10 and saved $212.40 (71.6 %) against the large model alone; "
            "quality is 0.8 % lower (0.2 to 1.4 %, audited on 830 rows).",
        ),
        (
            nights.calibrated,
            "Routing 1,000 prompts cost $10.00 and saved $15.00 (60.0 %) against the large model alone; "
            "quality is expected to be 0.6 % lower (0.1 to 1.2 %, from the calibration).",
        ),
        (
            nights.demo,
            "Routing 120 prompts cost $0.00458 and saved $0.00451 (49.6 %) against the large model alone; "
            "the effect on quality is not known.",
        ),
        (
            nights.dearer,
            "Routing 10 prompts cost $12.01, $2.01 (20.1 %) more than the large model alone; "
            "quality is 0.3 % higher (0.9 % higher to 0.4 % lower, audited on 830 rows).",
        ),
        (
            nights.unknown,
            "Routing 1,000 prompts sent 70.0 % to the small model, at an unknown cost (missing: router.price, "
            "models.small.price, models.large.price); the effect on quality is not known.",
        ),
        (nights.empty, "The input is empty, and so is the output."),
        (nights.unusable, "No model was called: none of the 3 rows has a usable prompt."),
    ],
)
def test_the_headline_is_one_sentence(night: Callable[[], NightReport], sentence: str) -> None:
    assert headline(night()) == sentence


def test_without_an_audited_drop_the_headline_has_the_expected_one() -> None:
    night = nights.calibrated().model_copy(update={"audit": nights.audit(None, None, None)})
    assert "expected to be 0.6 % lower" in headline(night)


def test_a_night_on_the_large_model_alone_has_its_quality() -> None:
    used = nights.cost(nights.usage("s", 0, 0, 0, "0"), nights.usage("l", 5, 50, 5, "2"), baseline="2")
    assert headline(nights.night(used)) == (
        "Routing 5 prompts cost $2.00, as much as the large model alone; "
        "quality is the large model's, which answered every row."
    )


def test_unknown_savings_are_called_unknown() -> None:
    used = nights.cost(nights.usage("s", 5, 50, 5, "1"), nights.usage("l", 0, 0, 0, "0"), baseline=None)
    assert headline(nights.night(used)).startswith("Routing 5 prompts cost $1.00, and the savings are not known; ")


def test_the_routers_choice_is_held_against_random_rows() -> None:
    # All rows on the small model lose 6.8 %, so 60 % of them at random lose 4.08 %.
    assert against_random(nights.calibrated()) == (
        "By the calibration, 600 rows on the small model lose 4.1 % of quality if drawn at random, and "
        "0.6 % (0.1 to 1.2 %) as the router chose them: 3.5 points less."
    )


def test_a_choice_by_the_answers_is_held_against_random_rows_too() -> None:
    after = nights.calibrated().model_copy(update={"deciding": Deciding(way="after", by_likeness=True)})
    assert against_random(after) == (
        "By the calibration, 600 rows on the small model lose 4.1 % of likeness to the large model if drawn at random, "
        "and 0.6 % (0.1 to 1.2 %) by the confidence of their answers: 3.5 points less."
    )


def test_a_router_that_is_worse_than_random_is_told_so() -> None:
    night = nights.calibrated()
    worse = nights.forecast("small_share 60 %", 1_000, 0.6, 10.0, 25.0, 5.0)
    assert against_random(night.model_copy(update={"expected": worse})).endswith("chose them: 0.9 points more.")


def test_without_a_calibration_nothing_is_said_about_random_rows() -> None:
    for night in (nights.demo(), nights.unknown(), nights.empty()):
        assert against_random(night) == ""
