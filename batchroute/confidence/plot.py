"""The plot of ways to decide: quality drop by total cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from batchroute.confidence.evaluate import WayFigures

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_LINES = {
    "before": ("#0072B2", "-"),
    "after": ("#D55E00", "-"),
    "both": ("#009E73", "-"),
    "random": ("#666666", "--"),
    "perfect": ("#666666", ":"),
}
_SHADED = ("before", "after", "both")


def draw(title: str, ways: Mapping[str, WayFigures], folder: Path) -> None:
    """Write `ways.png` and `ways.svg`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Fixed salt and metadata: the same figures give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "batchroute", "font.size": 10, "axes.spines.top": False}):
        figure = Figure(figsize=(8.5, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        figure.suptitle(title, fontsize=11)
        axes.axhline(0, color="black", linewidth=0.8)
        for name, (colour, style) in _LINES.items():
            line = None if name not in ways else ways[name].curve
            if line is None or not line.cost:
                continue
            if name in _SHADED:
                axes.fill_between(line.cost, line.low, line.high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(line.cost, line.drop, color=colour, linestyle=style, linewidth=2, label=name)
        axes.set_xlim(0, 100)
        axes.set_xlabel("total cost, % of the large model for all rows (small model, samples, router and large model)")
        axes.set_ylabel("quality drop, %\n(lower is better; below 0: better than the large model alone)")
        axes.legend(loc="upper right", frameon=False, title="shaded: 95 % interval", alignment="left")
        figure.savefig(folder / "ways.png", dpi=150, metadata={"Software": "batchroute"})
        figure.savefig(folder / "ways.svg", metadata={"Date": None, "Creator": "batchroute"})
