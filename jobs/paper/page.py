"""Writes `page.md`: the paper's tables beside the figures that `paper.sh` has left in a folder, with the curves.

python jobs/paper/page.py build/paper --metric chrf --second contains --labels det prob trans gap
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

import batchroute

PAIRS = {"small-gap": ("small", "middle"), "medium-gap": ("middle", "large"), "large-gap": ("small", "large")}
SHARES = ("10", "20", "40")
# "Hybrid LLM", Table 1: drop in BART score (%) at 10, 20 and 40 % cost advantage.
PAPER = {
    "small-gap": {"det": "0.1 / 0.1 / 0.2", "prob": "−0.1 / 0.0 / 0.1", "trans": "0.1 / 0.0 / 0.0"},
    "medium-gap": {"det": "0.1 / 1.0 / 3.5", "prob": "−0.1 / 0.8 / 3.4", "trans": "0.2 / 0.8 / 2.9"},
    "large-gap": {"det": "2.3 / 5.8 / 13.8", "prob": "2.2 / 5.8 / 13.1", "trans": "2.1 / 4.7 / 10.3"},
}
# The same, Table 2: seconds a query.
PAPER_SECONDS = "router 0.036; FLAN-T5 800m 0.46; Llama-2 7b 7.99; Llama-2 13b 14.61"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--second", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    options = parser.parse_args()
    folder, metrics = options.folder, (options.metric, options.second)
    sections = [
        "# The paper in miniature\n",
        _models(folder),
        *(_drops(folder, metric, options.labels) for metric in metrics),
        _gap_differences(folder, options.metric, options.labels),
        _rules(folder),
        _latency(folder, options.metric),
        _agreement(folder, options.metric),
        _transfer(folder),
        _backlog(folder),
        _curves(folder, options.metric),
    ]
    page = folder / "page.md"
    page.write_text("\n".join(section for section in sections if section), encoding="utf-8")
    print(f"page in {page}")


def _models(folder: Path) -> str:
    labelled = folder / "labelled.parquet"
    noted = {key.decode(): value.decode() for key, value in (pq.read_schema(labelled).metadata or {}).items()}
    frame = pl.read_parquet(labelled)
    splits = dict(frame["split"].value_counts().sort("split").iter_rows())
    rows = []
    for model in ("small", "middle", "large"):
        written = frame[f"{model}_output_tokens"].explode(empty_as_null=False).mean()
        quality = frame[f"{model}_quality"].list.mean().mean()
        rows.append([model, noted.get(f"{model}_model"), _number(quality, 3), _number(written)])
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    words = f"Rows: {counts}. Sampling: `{noted.get('sampling')}`. Quality here is {noted.get('metric')}.\n"
    return "## Models\n\n" + words + _table(["model", "name", "mean quality", "tokens an answer"], rows)


def _drops(folder: Path, metric: str, labels: Sequence[str]) -> str:
    rows = []
    for pair in PAIRS:
        figures = _evaluation(folder, pair, metric)
        rows.append([pair, "random", _triple(figures["random"]), "", ""])
        for router in figures["routers"]:
            label = Path(router["router"]).name
            rows.append(
                [pair, f"r_{label}", _triple(router["drop"]), _interval(router["drop"]["40"]), _paper(pair, label)]
            )
        rows.append([pair, "perfect", _triple(figures["oracle"]), "", ""])
    head = ["pair", "router", "drop % at 10 / 20 / 40 %", "95 % interval at 40 %", "the paper (BART score)"]
    first = _evaluation(folder, "small-gap", metric)
    words = f"Drop in {metric} on {first['rows']:,} test rows.\n"
    return f"## Table 1: quality drop, {metric}\n\n{words}" + _table(head, rows)


def _gap_differences(folder: Path, metric: str, labels: Sequence[str]) -> str:
    rows = []
    for pair in PAIRS:
        for router in _evaluation(folder, pair, metric)["routers"]:
            differences = router["gap_difference"]
            values = " / ".join(_number(differences[share]["value"], 3) for share in SHARES)
            rows.append([pair, f"r_{Path(router['router']).name}", values, _number(router["spearman"]["value"], 2)])
    head = ["pair", "router", "at 10 / 20 / 40 %", "Spearman of score and gap"]
    words = (
        "Mean gap of the rows sent to the small model minus that of the others; above 0 the router separates rows.\n"
    )
    return f"## Quality-gap difference, {metric}\n\n{words}" + _table(head, rows)


def _rules(folder: Path) -> str:
    rows = []
    for pair in PAIRS:
        found = json.loads((folder / pair / "rules.txt").read_text().splitlines()[-1])
        for limit in sorted({rule["limit"] for rule in found["rules"]}):
            by_rule = {rule["rule"]: rule for rule in found["rules"] if rule["limit"] == limit}
            cells = [
                f"{by_rule[rule]['broken']:.1%}, {by_rule[rule]['cost_advantage']:.1%}"
                for rule in ("bounded", "empirical")
            ]
            rows.append([pair, f"{limit:g} %", *cells])
    words = (
        f"{found['splits']} splits of {found['rows']:,} test rows: {found['calibration_rows']} choose the threshold, "
        "the others test it. A cell: share of the splits whose test drop is above the limit, and mean cost advantage. "
        "In the paper's Table 3 the plain rule breaks the limit in four of nine cells.\n"
    )
    return "## Table 3: thresholds\n\n" + words + _table(["pair", "limit", "bounded", "plain (the paper's)"], rows)


def _latency(folder: Path, metric: str) -> str:
    noted = {
        key.decode(): value.decode()
        for key, value in (pq.read_schema(folder / "labelled.parquet").metadata or {}).items()
    }
    frame = pl.read_parquet(folder / "labelled.parquet")
    latency = _evaluation(folder, "large-gap", metric)["routers"][-1]["latency"]
    each = 1 / latency["prompts_per_second"]
    rows = [["router", f"{each:.4f}", f"{latency['single_prompt_ms'] / 1000:.4f}"]]
    for model in ("small", "middle", "large"):
        tokens = frame[f"{model}_input_tokens"].mean() + frame[f"{model}_output_tokens"].list.mean().mean()  # type: ignore[operator]
        rows.append([model, f"{tokens * float(noted[f'{model}_seconds_per_token']):.4f}", ""])
    words = f"Seconds a prompt, in batches, and one at a time. The paper: {PAPER_SECONDS}.\n"
    return "## Table 2: latency\n\n" + words + _table(["", "in batches", "one at a time"], rows)


def _agreement(folder: Path, metric: str) -> str:
    rows = []
    for pair in PAIRS:
        agreement = _evaluation(folder, pair, metric)["agreement"]
        rows.append([pair, *(_estimate(agreement[kind]) for kind in ("pearson", "spearman"))])
    words = "How far the gaps by the two metrics agree, prompt by prompt.\n"
    return "## Two metrics\n\n" + words + _table(["pair", "Pearson", "Spearman"], rows)


def _transfer(folder: Path) -> str:
    parts = []
    for pair in ("small-gap", "medium-gap"):
        lines = (folder / pair / "transfer.txt").read_text().splitlines()
        parts.append(f"{pair}:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "## The large gap's router on another pair\n\n" + "\n\n".join(parts) + "\n"


def _backlog(folder: Path) -> str:
    run = folder / "run"
    if not (run / "manifest.json").exists():
        return ""
    output = batchroute.read(str(run)).select("id", "route", "status").collect()
    rows = output.join(pl.read_parquet(folder / "backlog.parquet"), on="id", validate="1:1")
    small, large = (pl.col(f"{model}_quality").list.mean() for model in ("small", "large"))
    took = pl.when(pl.col("route") == "small").then(small).otherwise(large)
    means = rows.select(small=small.mean(), large=large.mean(), routed=took.mean()).row(0, named=True)
    share = float((rows["route"] == "small").mean())  # type: ignore[arg-type]
    drop = 100 * (means["large"] - means["routed"]) / means["large"]
    random = 100 * share * (means["large"] - means["small"]) / means["large"]
    report = (run / "report" / "report.md").read_text(encoding="utf-8").split("\n## ")[0]
    return (
        "## A backlog, routed\n\n"
        f"{len(rows)} rows that nothing was fitted to, {share:.0%} of them on the small model. By their labels "
        f"the drop is {drop:.1f} %; at random it would be {random:.1f} %. The report's first lines:\n\n"
        + "\n".join(f"> {line}".rstrip() for line in report.splitlines())
        + "\n"
    )


def _curves(folder: Path, metric: str) -> str:
    lines = ["## Curves\n"]
    for pair in PAIRS:
        picture = folder / f"{pair}.png"
        shutil.copyfile(folder / pair / f"by-{metric}" / "curve.png", picture)
        lines.append(f"![{pair}: drop by cost advantage]({picture.name})\n")
    return "\n".join(lines)


def _evaluation(folder: Path, pair: str, metric: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / pair / f"by-{metric}" / "evaluation.json").read_text())
    return tree


def _paper(pair: str, label: str) -> str:
    return PAPER[pair].get(label, "")


def _triple(by_share: dict[str, Any]) -> str:
    return " / ".join(_number(by_share[share]["value"]) for share in SHARES)


def _interval(estimate: dict[str, Any]) -> str:
    return f"{_number(estimate['low'])} to {_number(estimate['high'])}"


def _estimate(estimate: dict[str, Any]) -> str:
    return f"{_number(estimate['value'], 2)} ({_number(estimate['low'], 2)} to {_number(estimate['high'], 2)})"


def _number(value: Any, digits: int = 1) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
