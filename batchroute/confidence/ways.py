"""`evaluate` on a table with signals: before, after and both, as a file, a plot and a screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from batchroute.confidence import plot
from batchroute.confidence.answers import Answers
from batchroute.confidence.calibrate import answered_rows, seconds_per_token
from batchroute.confidence.calibration import ConfidenceCalibration, measure
from batchroute.confidence.evaluate import WayFigures, choices, figures
from batchroute.confidence.pricing import by_price, by_ratio
from batchroute.confidence.rows import PricedRows
from batchroute.costs.prices import Price
from batchroute.fields import SIDES, Side
from batchroute.tables.quality_table import QualityTable


class Ways(BaseModel):
    """`ways.json`.

    Attributes:
        reference: `large` if the drops are of the likeness to the large model's answers.
        confidence: where the confidences come from.
        costs: of an answer of the small model, its samples and a score: in percent of an answer of the large model.
        prices: where these costs come from.
        total_cost: by cost advantage, in percent of the large model's cost for all rows.
        ways: before, after, both (rows below a score skip the small model), auto (what the other folds show to be
            best), random and perfect (decided before, by the true gaps). Cuts and choices of `both` and `auto` are made
            on other rows than they are measured on.
        choices: by cost advantage, what `policy.decide: auto` does with all of these rows, and why.
    """

    model_config = ConfigDict(frozen=True)

    table: str
    table_sha256: str
    models: dict[str, str | None]
    metric: str | None
    reference: str | None
    answers: int
    prompts: int
    signals: list[str]
    confidence: str
    costs: dict[str, float]
    prices: str
    resamples: int
    seed: int
    total_cost: dict[str, float]
    ways: dict[str, WayFigures]
    choices: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prices:
    """What answers cost: by the job's prices, or by one ratio if there are none.

    Attributes:
        by_side: USD.
        ratio: what an answer of the small model costs, as a share of the large model's.
        words: where the costs come from.
    """

    by_side: Mapping[Side, Price] | None
    ratio: float
    words: str


def evaluate_ways(
    table: QualityTable,
    scores: NDArray[np.float32] | None,
    calibration: ConfidenceCalibration | None,
    prices: Prices,
    resamples: int,
    seed: int,
) -> Ways:
    """Compare the ways on rows that the router never saw.

    Args:
        scores: the router's, shape [rows]; None without a router.
        calibration: of a confidence that was fitted to another table. None, or one of the same table: the confidence is
            fitted to these rows, and each row has that of a model that was not fitted to it.

    Raises:
        InputError: the table has no signals, too few prompts, or no tokens where prices need them.
    """
    answers = Answers.of(table, scores)
    answers.check()
    model = None if calibration is None or calibration.table_sha256 == table.sha256 else calibration.model
    measured = measure(answers.signals, answers.small, answers.large, answers.prompts, seed, model, resamples=1)
    answered = answered_rows(answers, scores, measured.confidence)
    if prices.by_side is None:
        rows = by_ratio(answered, prices.ratio)
    else:
        rows = by_price(answered, prices.by_side, seconds_per_token(table))
    found, costs = figures(rows, resamples, seed)
    return Ways(
        table=table.path,
        table_sha256=table.sha256,
        models={side: table.metadata.get(f"{side}_model") for side in SIDES},
        metric=table.metadata.get("metric"),
        reference=table.reference,
        answers=len(answers),
        prompts=int(answers.group.max()) + 1,
        signals=answers.signals.known,
        confidence="cross-fitted on these rows" if model is None else "fitted to another table",
        costs=_costs(rows),
        prices=prices.words,
        resamples=resamples,
        seed=seed,
        total_cost=costs,
        ways=found,
        choices=choices(rows, seed),
    )


def write(ways: Ways, folder: Path) -> None:
    """Write `ways.json` and the plot, as PNG and SVG, into an existing folder."""
    (folder / "ways.json").write_text(ways.model_dump_json(indent=1) + "\n", encoding="utf-8")
    pair = " or ".join(ways.models[side] or f"the {side} model" for side in SIDES)
    title = f"{pair}: when to decide, at equal total cost\n{ways.answers:,} answers to {ways.prompts:,} prompts"
    plot.draw(f"{title} · {_metric(ways)}", ways.ways, folder)


def sentences(ways: Ways) -> list[str]:
    """The figures for people: a line for each way and cost, and what `policy.decide: auto` would do."""
    lines = [
        f"{ways.answers:,} answers to {ways.prompts:,} prompts, confidence {ways.confidence} from "
        f"{', '.join(ways.signals)}; {_metric(ways)}",
        f"costs by {ways.prices}, in percent of an answer of the large model: "
        + ", ".join(f"{name} {cost:.1f}" for name, cost in ways.costs.items()),
    ]
    for share, cost in ways.total_cost.items():
        lines.append(f"at a total cost of {cost:.1f} % (cost advantage {share} %): quality drop, %")
        for name, figures_of in ways.ways.items():
            drop, difference = figures_of.drop[share], figures_of.difference[share]
            if drop.value is None:
                lines.append(f"  {name:<8} costs more in any case")
                continue
            stays = figures_of.stays[share]
            first = next(iter(ways.ways)) if "before" in ways.ways else "random"
            against = "" if name == first else f", against {first} {difference.text()} points"
            lines.append(f"  {name:<8} {drop.text()}{against}; {stays:.0f} % of the rows stay small")
        lines.append(f"  auto: {ways.choices[share]}")
    for share in ways.total_cost:
        shown = [f"{name} {one.drop_at_share[share].text()}" for name, one in ways.ways.items() if one.drop_at_share]
        lines.append(
            f"with {share} % of the rows on the small model, whatever it costs: quality drop, %: {', '.join(shown)}"
        )
    return lines


def _metric(ways: Ways) -> str:
    words = ways.metric or "metric not named"
    return f"{words}, likeness to the large model, not truth" if ways.reference == "large" else words


def _costs(rows: PricedRows) -> dict[str, float]:
    means = {
        "small": float(rows.small_cost.mean()),
        "samples": float(rows.signal_cost.mean()),
        "score": rows.router_cost,
    }
    return {name: 100.0 * mean / rows.all_large for name, mean in means.items()}
