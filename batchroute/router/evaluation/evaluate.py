"""Evaluation: what a router is worth on rows that it never saw, compared with random and with perfect routing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.router.evaluation import plots
from batchroute.router.evaluation.curves import (
    COST_ADVANTAGES,
    Curves,
    Draws,
    MeanQualities,
    curves,
    oracle_curves,
    random_curves,
)
from batchroute.router.evaluation.output import check_output, make_output
from batchroute.router.evaluation.scorecard import (
    Agreement,
    Comparison,
    Correlations,
    DropCurve,
    Estimate,
    Evaluation,
    Latency,
    Reliability,
    RouterFigures,
    drops,
    key,
)
from batchroute.router.labels import Labels
from batchroute.router.model import Router
from batchroute.router.notes import ROUTER_FILE, Notes, read_json
from batchroute.router.scoring import score
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

MIN_ROWS = 50
_BINS = 10
_SINGLE_PROMPTS = 32


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation, the rows that it was made on, and the first router's scores of them."""

    evaluation: Evaluation
    table: QualityTable
    scores: NDArray[np.float32]


def evaluate(
    quality_table_path: str,
    routers: Sequence[str],
    device: torch.device,
    resamples: int = 2000,
    seed: int = 0,
    all_rows: bool = False,
    second_table: str | None = None,
) -> Evaluation:
    """Evaluate one router, or compare several on the same rows.

    Args:
        all_rows: include rows that the routers were trained on, which flatters them.
        second_table: the same prompts measured with another metric.

    Raises:
        InputError: too few rows that no router has seen, a table of another pair, a router that cannot be loaded.
    """
    whole = quality_table.read(quality_table_path)
    return evaluate_routers(whole, routers, device, resamples, seed, all_rows, second_table).evaluation


def evaluate_routers(
    whole: QualityTable,
    routers: Sequence[str],
    device: torch.device,
    resamples: int = 2000,
    seed: int = 0,
    all_rows: bool = False,
    second_table: str | None = None,
) -> Evaluated:
    """As `evaluate`, of a table that was read already."""
    table = whole if all_rows else _unseen(whole, routers)
    if len(table) < MIN_ROWS:
        raise InputError(
            f"{len(table):,} of {len(whole):,} rows of the quality table '{whole.path}' are new to "
            f"{' and '.join(routers)}: evaluate on at least {MIN_ROWS} that were not trained on, or pass --all-rows to "
            "see flattering figures"
        )
    qualities = MeanQualities.of(table.small_mean, table.large_mean, table.prompts)
    qualities.check(f" in '{whole.path}'")
    draws = qualities.draws(resamples, seed)
    evaluated = [_router(name, device, table, qualities, draws) for name in routers]
    first, oracle = evaluated[0][1], oracle_curves(qualities, draws)
    evaluation = Evaluation(
        table=whole.path,
        table_sha256=whole.sha256,
        models={side: table.metadata.get(f"{side}_model") for side in SIDES},
        metric=table.metadata.get("metric"),
        rows=len(table),
        left_out=len(whole) - len(table),
        seen_rows_included=all_rows,
        small_mean=float(qualities.small.mean()),
        large_mean=float(qualities.large.mean()),
        resamples=resamples,
        seed=seed,
        random=drops(random_curves(qualities, draws)),
        oracle=drops(oracle),
        oracle_curve=DropCurve.of(oracle),
        routers=[figures for figures, _, _ in evaluated],
        comparisons=[_compare(figures.router, routed, first) for figures, routed, _ in evaluated[1:]],
        agreement=None if second_table is None else _agreement(table, second_table, resamples, seed),
        versions={name: version(name) for name in ("batchroute", "torch", "transformers")},
    )
    return Evaluated(evaluation, table, evaluated[0][2])


def _unseen(table: QualityTable, routers: Sequence[str]) -> QualityTable:
    for router in routers:
        notes = Notes.read(router)
        notes.check_pair(table, router)
        table = notes.held_out(table)
    return table


def _router(
    name: str, device: torch.device, table: QualityTable, qualities: MeanQualities, draws: Draws
) -> tuple[RouterFigures, Curves, NDArray[np.float32]]:
    router = Router.load(name, device)
    score(router, table.prompts[:_SINGLE_PROMPTS])
    started = time.perf_counter()
    scores = score(router, table.prompts).checked(name).scores
    seconds = time.perf_counter() - started
    single = []
    for prompt in table.prompts[:_SINGLE_PROMPTS]:
        started = time.perf_counter()
        score(router, [prompt])
        single.append(time.perf_counter() - started)
    router.close()
    routed = curves(scores, qualities, draws)
    correlations = Correlations.of(scores.astype(np.float64), qualities.gap, draws)
    figures = RouterFigures(
        router=name,
        label=Notes.read(name).label,
        drop=drops(routed),
        gap_difference={key(share): Estimate.of(routed.gap_difference(share)) for share in COST_ADVANTAGES},
        cost_advantage_at_1=Estimate.of(routed.share_within(1.0)),
        apgr=Estimate.of(routed.apgr()),
        cpt_50=Estimate.of(routed.large_share_for(0.5)),
        cpt_80=Estimate.of(routed.large_share_for(0.8)),
        pearson=correlations.pearson,
        spearman=correlations.spearman,
        reliability=_reliability(name, scores, table),
        latency=Latency(
            device=str(device),
            prompts_per_second=len(table) / seconds,
            single_prompt_ms=1000 * float(np.median(single)),
        ),
        curve=DropCurve.of(routed),
    )
    return figures, routed, scores


def _reliability(name: str, scores: NDArray[np.float32], table: QualityTable) -> Reliability:
    notes = read_json(Path(models.resolve(name)) / ROUTER_FILE)
    # A router from elsewhere does not say what its scores predict, so they are compared with the paper's y_prob.
    labels = Labels("prob") if notes is None else Labels.from_dict(notes)
    wanted = labels.apply(table.small, table.large)
    order = np.argsort(scores, kind="stable")
    bins = [rows for rows in np.array_split(order, _BINS) if len(rows)]
    rows_of_bin = [len(rows) for rows in bins]
    mean_score, mean_label = ([float(values[rows].mean()) for rows in bins] for values in (scores, wanted))
    distance = np.abs(np.subtract(mean_score, mean_label))
    return Reliability(
        label=labels.kind,
        rows=rows_of_bin,
        mean_score=mean_score,
        mean_label=mean_label,
        error=float(distance @ np.array(rows_of_bin) / len(scores)),
    )


def _compare(name: str, routed: Curves, first: Curves) -> Comparison:
    differences = {key(share): routed.drop_at(share) - first.drop_at(share) for share in COST_ADVANTAGES}
    return Comparison(
        router=name,
        difference={share: Estimate.of(values) for share, values in differences.items()},
        better_in={share: float((values[1:] < 0).mean()) for share, values in differences.items()},
    )


def _agreement(table: QualityTable, second: str, resamples: int, seed: int) -> Agreement:
    other = quality_table.read(second)
    other_gaps = dict(zip(other.prompts, other.small_mean - other.large_mean, strict=True))
    shared = [row for row, prompt in enumerate(table.prompts) if prompt in other_gaps]
    if len(shared) < MIN_ROWS:
        raise InputError(
            f"the quality tables '{table.path}' and '{second}' share {len(shared):,} prompts: at least {MIN_ROWS} are "
            "needed to compare their metrics"
        )
    part = table.take(shared)
    qualities = MeanQualities.of(part.small_mean, part.large_mean, part.prompts)
    other_gap = np.array([other_gaps[prompt] for prompt in part.prompts])
    correlations = Correlations.of(qualities.gap, other_gap, qualities.draws(resamples, seed))
    return Agreement(
        table=second,
        metric=other.metadata.get("metric"),
        prompts=len(shared),
        pearson=correlations.pearson,
        spearman=correlations.spearman,
    )


def write(evaluation: Evaluation, output: Path, overwrite: bool = False) -> None:
    """Write `evaluation.json` and the plot, as PNG and SVG, into a folder.

    Raises:
        InputError: the folder is not empty, or cannot be written.
    """
    check_output(output, overwrite)
    make_output(output)
    (output / "evaluation.json").write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    plots.draw(evaluation, output)
