"""What `batchroute evaluate` prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from batchroute.router.evaluation.scorecard import Estimate, Evaluation, RouterFigures

_LOG_WIDTH = 130


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the figures of an evaluation, each with its 95 % interval."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    title = f"{evaluation.rows:,} rows"
    title += ", some trained on: these figures flatter" if evaluation.seen_rows_included else " not trained on"
    if evaluation.left_out:
        title += f" ({evaluation.left_out:,} left out)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for figures in evaluation.routers:
        table.add_column(figures.name)
    if not evaluation.comparisons:
        table.add_column("at random")
        table.add_column("perfect routing")
    # In the first section lower is better, in the others higher.
    extra = [] if evaluation.comparisons else [evaluation.random, evaluation.oracle]
    for share in evaluation.random:
        cells = [figures.drop[share] for figures in evaluation.routers] + [drops[share] for drops in extra]
        table.add_row(f"quality drop at {share} % cost advantage, %", *[cell.text() for cell in cells])
    for name, cell in _LOWER_IS_BETTER:
        table.add_row(name, *[cell(figures) for figures in evaluation.routers])
    table.add_section()
    for share in evaluation.random:
        cells = [figures.gap_difference[share] for figures in evaluation.routers]
        table.add_row(f"quality-gap difference at {share} %", *[cell.text(3) for cell in cells])
    table.add_section()
    for name, cell in _HIGHER_IS_BETTER:
        table.add_row(name, *[cell(figures) for figures in evaluation.routers])
    console.print(table)
    for line in _sentences(evaluation):
        console.print(line, soft_wrap=True, highlight=False)


def _sentences(evaluation: Evaluation) -> list[str]:
    lines = []
    for comparison in evaluation.comparisons:
        for share, difference in comparison.difference.items():
            lines.append(
                f"{Path(comparison.router).name} against {Path(evaluation.routers[0].router).name} at {share} %: drop "
                f"{difference.text()} points, lower in {comparison.better_in[share]:.0%} of the resamples"
            )
    agreement = evaluation.agreement
    if agreement is not None:
        lines.append(
            f"the gaps of the two metrics on {agreement.prompts:,} prompts correlate by "
            f"{agreement.pearson.text(2)} (Pearson), {agreement.spearman.text(2)} (Spearman)"
        )
    if evaluation.routers[0].apgr.value is None:
        lines.append("APGR and CPT are not defined: the large model is not better on average")
    return lines


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "n/a"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


_LOWER_IS_BETTER: tuple[tuple[str, Callable[[RouterFigures], str]], ...] = (
    ("RouteLLM's CPT 50 %: share on large", lambda figures: _percent(figures.cpt_50)),
    ("RouteLLM's CPT 80 %: share on large", lambda figures: _percent(figures.cpt_80)),
    ("reliability error of the score", lambda figures: f"{figures.reliability.error:.3f}"),
    ("one prompt alone, ms", lambda figures: f"{figures.latency.single_prompt_ms:.1f}"),
)

_HIGHER_IS_BETTER: tuple[tuple[str, Callable[[RouterFigures], str]], ...] = (
    ("cost advantage at 1 % drop", lambda figures: _percent(figures.cost_advantage_at_1)),
    ("RouteLLM's APGR", lambda figures: figures.apgr.text(3)),
    ("correlation of score and gap, Pearson", lambda figures: figures.pearson.text(2)),
    ("correlation of score and gap, Spearman", lambda figures: figures.spearman.text(2)),
    ("prompts a second, together", lambda figures: f"{figures.latency.prompts_per_second:.0f}"),
)
