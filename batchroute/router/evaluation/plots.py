"""The plot of an evaluation: quality drop by cost advantage, and the reliability of the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchroute.fields import SIDES
from batchroute.router.evaluation.scorecard import Evaluation, RouterFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#666666"
_SHORT = 40


def draw(evaluation: Evaluation, folder: Path) -> None:
    """Write `curve.png` and `curve.svg`: cost-quality curves on the left, reliability on the right."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Fixed salt and metadata: the same evaluation gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "batchroute", "font.size": 10, "axes.spines.top": False}):
        figure = Figure(figsize=(11, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
        figure.suptitle(_title(evaluation), fontsize=12)
        _curves(left, evaluation)
        _reliability(right, evaluation)
        figure.savefig(folder / "curve.png", dpi=150, metadata={"Software": "batchroute"})
        figure.savefig(folder / "curve.svg", metadata={"Date": None, "Creator": "batchroute"})


def _title(evaluation: Evaluation) -> str:
    small, large = (evaluation.models[side] or f"the {side} model" for side in SIDES)
    which = "rows, some of them trained on" if evaluation.seen_rows_included else "rows not trained on"
    metric = f" · {_cut(evaluation.metric)}" if evaluation.metric else ""
    return f"{_cut(small)} or {_cut(large)}: quality lost against cost saved\n{evaluation.rows:,} {which}{metric}"


def _curves(axes: Axes, evaluation: Evaluation) -> None:
    random_at_40 = evaluation.random["40"].value or 0.0
    axes.axhline(0, color="black", linewidth=0.8)
    axes.plot([0, 100], [0, random_at_40 / 0.4], color=_GREY, linestyle="--", label="at random")
    oracle = evaluation.oracle_curve
    shares = [100 * share for share in oracle.cost_advantage]
    axes.plot(shares, oracle.drop, color=_GREY, linestyle=":", label="perfect routing")
    for figures, colour in zip(evaluation.routers, _cycle(len(evaluation.routers)), strict=True):
        line = figures.curve
        axes.fill_between(shares, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(shares, line.drop, color=colour, linewidth=2, label=figures.name)
    if len(evaluation.routers) == 1:
        _mark(axes, evaluation.routers[0])
    axes.set_xlim(0, 100)
    axes.set_xlabel("cost advantage: rows on the small model, %")
    axes.set_ylabel("quality drop against all rows on the large model, %\n(lower is better; below 0: better than it)")
    axes.legend(loc="upper left", frameon=False, title="shaded: 95 % interval", alignment="left")


def _mark(axes: Axes, figures: RouterFigures) -> None:
    """Mark the paper's three cost advantages with their drops."""
    for number, (share, estimate) in enumerate(figures.drop.items()):
        if estimate.value is None:
            continue
        axes.plot(float(share), estimate.value, "o", color=_COLOURS[0])
        axes.annotate(
            f"{estimate.value:.1f} % at {share} %",
            (float(share), estimate.value),
            # Alternately above and below the curve, so that neighbours do not overlap.
            xytext=(6, -14 if number % 2 else 8),
            textcoords="offset points",
            fontsize=9,
        )


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
    for figures, colour in zip(evaluation.routers, _cycle(len(evaluation.routers)), strict=True):
        reliability = figures.reliability
        axes.plot(reliability.mean_score, reliability.mean_label, "o-", color=colour, linewidth=1, markersize=5)
    labels = {figures.reliability.label for figures in evaluation.routers}
    learned = f"mean label '{labels.pop()}'" if len(labels) == 1 else "mean of the label that each learned,"
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title("can scores be taken at their word?", fontsize=10)
    axes.set_xlabel("mean score of a tenth of the rows")
    axes.set_ylabel(f"{learned} of the same rows\n(on the dashed line: yes)")


def _cut(text: str) -> str:
    text = text.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:")
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _cycle(count: int) -> list[Any]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]
