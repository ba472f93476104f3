"""Writes `page.md`: the paper's tables beside the figures that `paper.sh` has left in a folder, with the curves.

python jobs/paper/page.py build/paper --metric chrf --second contains
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
from figures import MODELS, PAIRS, SHARES, Figures, cell, drop_of, number, table
from findings import findings

import batchroute

# "Hybrid LLM", Table 1: drop in BART score (%) at 10, 20 and 40 % cost advantage.
PAPER = {
    "small-gap": {"det": "0.1 / 0.1 / 0.2", "prob": "−0.1 / 0.0 / 0.1", "trans": "0.1 / 0.0 / 0.0"},
    "medium-gap": {"det": "0.1 / 1.0 / 3.5", "prob": "−0.1 / 0.8 / 3.4", "trans": "0.2 / 0.8 / 2.9"},
    "large-gap": {"det": "2.3 / 5.8 / 13.8", "prob": "2.2 / 5.8 / 13.1", "trans": "2.1 / 4.7 / 10.3"},
}
PAPER_PAIRS = {
    "small-gap": "Llama-2 7b → 13b",
    "medium-gap": "Llama-2 13b → GPT-3.5-turbo",
    "large-gap": "FLAN-T5 800m → Llama-2 13b",
}
# The same, Table 2: seconds a query.
PAPER_SECONDS = {"router": "0.036", "small": "0.46 (FLAN-T5 800m)", "middle": "7.99 (7b)", "large": "14.61 (13b)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metric", required=True, help="what the routers learned")
    parser.add_argument("--second", required=True, help="another metric of the same answers")
    options = parser.parse_args()
    figures = Figures(options.folder, options.metric, options.second)
    sections = [
        '# The paper in miniature\n\nBrackets and "to" are 95 % intervals: bootstrap over prompts.\n',
        findings(figures),
        _models(figures),
        _drops(figures),
        _second_drops(figures),
        _gap_differences(figures),
        _rules(figures),
        _latency(figures),
        _agreement(figures),
        _transfer(figures),
        _after(figures),
        _backlog(figures),
        _curves(figures),
    ]
    page = options.folder / "page.md"
    page.write_text("\n".join(section for section in sections if section), encoding="utf-8")
    print(f"page in {page}")


def _models(figures: Figures) -> str:
    frame, noted = figures.labelled, figures.noted
    rows = []
    for model in MODELS:
        quality = frame[f"{model}_quality"].list.mean()
        error = 1.96 * float(quality.std() or 0) / len(quality) ** 0.5  # type: ignore[arg-type]
        mean = float(quality.mean())  # type: ignore[arg-type]
        read, written, seconds = figures.work(model)
        rows.append(
            [
                model,
                noted.get(f"{model}_model"),
                f"{number(mean, 3)} ({number(mean - error, 3)} to {number(mean + error, 3)})",
                number(written / figures.answers),
                f"{(read + written) / seconds:,.0f}",
                f"{written / seconds:,.0f}",
            ]
        )
    counts = ", ".join(f"{count:,} {split}" for split, count in frame["split"].value_counts().sort("split").iter_rows())
    read, samples = figures.work(MODELS[0])[0], figures.answers / len(frame)
    words = (
        f"Rows: {counts}. {figures.sampling} Quality here is `{noted.get('metric')}`. Tokens a second are those of "
        "`label`, read and written. A prompt counts in each of its samples, and `label` reads it "
        f"once for all of them: of the small model's {read:,.0f} tokens of prompts it read {read / samples:,.0f}.\n"
    )
    head = ["model", "name", "mean quality", "tokens an answer", "tokens a second", "of these written"]
    return "## Models\n\n" + words + table(head, rows)


def _drops(figures: Figures) -> str:
    rows = []
    for pair in PAIRS:
        evaluated = figures.evaluation(pair)
        rows.append([pair, "random", *(cell(evaluated["random"][share]) for share in SHARES), ""])
        for router in evaluated["routers"]:
            label = Path(router["router"]).name
            paper = PAPER[pair].get(label, "")
            rows.append([pair, f"r_{label}", *(cell(router["drop"][share]) for share in SHARES), paper])
        rows.append([pair, "perfect", *(cell(evaluated["oracle"][share]) for share in SHARES), ""])
    words = (
        f"Drop in `{figures.metric}` (%) on {figures.evaluation('small-gap')['rows']:,} test rows, by cost advantage. "
        "The paper's pairs, by BART score: "
        + "; ".join(f"{pair} {names}" for pair, names in PAPER_PAIRS.items())
        + ".\n"
    )
    head = ["pair", "router", *(f"at {share} %" for share in SHARES), "the paper, 10 / 20 / 40 %"]
    return "## Table 1: quality drop\n\n" + words + table(head, rows)


def _second_drops(figures: Figures) -> str:
    rows = []
    for pair in PAIRS:
        evaluated = figures.evaluation(pair, figures.second)
        rows.append([pair, "random", *(cell(evaluated["random"][share]) for share in SHARES)])
        for router in evaluated["routers"]:
            name = f"r_{Path(router['router']).name}"
            rows.append([pair, name, *(cell(router["drop"][share]) for share in SHARES)])
    words = f"The same rows and routers, which learned `{figures.metric}`; drop in `{figures.second}` (%).\n"
    head = ["pair", "router", *(f"at {share} %" for share in SHARES)]
    return f"## The same by {figures.second}\n\n" + words + table(head, rows)


def _gap_differences(figures: Figures) -> str:
    rows = []
    for pair in PAIRS:
        for router in figures.evaluation(pair)["routers"]:
            values = (cell(router["gap_difference"][share], 3) for share in SHARES)
            rows.append([pair, f"r_{Path(router['router']).name}", *values, cell(router["spearman"], 2)])
    words = (
        f"Mean gap in `{figures.metric}` of the rows sent to the small model minus that of the others (the paper's "
        "section 4.3). Above 0 the router separates rows.\n"
    )
    head = ["pair", "router", *(f"at {share} %" for share in SHARES), "Spearman of score and gap"]
    return "## Quality-gap difference\n\n" + words + table(head, rows)


def _rules(figures: Figures) -> str:
    rows = []
    for pair in PAIRS:
        found = figures.rules(pair)
        for limit in sorted({rule["limit"] for rule in found["rules"]}):
            by_rule = {rule["rule"]: rule for rule in found["rules"] if rule["limit"] == limit}
            cells = [
                f"{by_rule[rule]['broken']:.1%} of the splits; {by_rule[rule]['cost_advantage']:.1%}"
                for rule in ("empirical", "bounded")
            ]
            rows.append([pair, f"{limit:g} %", *cells])
    words = (
        f"{found['splits']} splits of {found['rows']:,} test rows: {found['calibration_rows']} choose the threshold, "
        f"the other {found['rows'] - found['calibration_rows']:,} test it. A cell: how often the test drop is above "
        "the limit, and the mean cost advantage. The splits share rows, so these shares have no interval. So few test "
        "rows vary by themselves: a limit that holds for all such prompts can look broken on them. In the paper's "
        "Table 3 the plain rule breaks the limit in four of nine cells.\n"
    )
    head = ["pair", "limit", "plain rule (the paper's)", "bounded rule"]
    return "## Table 3: thresholds\n\n" + words + table(head, rows)


def _latency(figures: Figures) -> str:
    one_at_a_time = figures.router_seconds(single=True)
    rows = [["router", f"{figures.router_seconds():.4f}", f"{one_at_a_time:.4f}", PAPER_SECONDS["router"]]]
    rows += [[model, f"{figures.seconds(model):.4f}", "", PAPER_SECONDS[model]] for model in MODELS]
    words = (
        "Seconds a prompt. In batches: `evaluate` for the router, `label` for one answer of a model. The paper's are "
        "of one query at a time, on a GPU. Ours depend on what else the machine did at the time.\n"
    )
    return "## Table 2: latency\n\n" + words + table(["", "in batches", "one at a time", "the paper"], rows)


def _agreement(figures: Figures) -> str:
    rows = []
    for pair in PAIRS:
        agreement = figures.evaluation(pair)["agreement"]
        rows.append([pair, *(cell(agreement[kind], 2) for kind in ("pearson", "spearman"))])
    words = f"How far the gaps by `{figures.metric}` and by `{figures.second}` agree, prompt by prompt.\n"
    return "## Two metrics\n\n" + words + table(["pair", "Pearson", "Spearman"], rows)


def _transfer(figures: Figures) -> str:
    parts = [f"{pair}:\n\n" + "\n".join(f"- {line}" for line in figures.transfer(pair)) for pair in PAIRS[:2]]
    return "## The large gap's router on another pair\n\n" + "\n\n".join(parts) + "\n"


def _after(figures: Figures) -> str:
    path = figures.folder / "large-gap" / "after" / "ways.json"
    if not path.exists():
        return ""
    ways = json.loads(path.read_text())
    words = (
        f"Not in the paper. The large gap, {ways['prompts']:,} test prompts with {ways['answers']:,} answers. `before` "
        "decides by the router's score, `after` by the small model's own confidence. Drop (%) at equal total cost, if "
        "an answer of the small model costs a tenth; n/a: costs more in any case.\n"
    )
    rows = [
        [name, *(cell(figures_of["drop"][share]) if share in figures_of["drop"] else "" for share in SHARES)]
        for name, figures_of in ways["ways"].items()
    ]
    return "## Deciding after the small model\n\n" + words + table(["", *(f"at {share} %" for share in SHARES)], rows)


def _backlog(figures: Figures) -> str:
    run = figures.folder / "run"
    if not (run / "manifest.json").exists():
        return ""
    output = batchroute.read(str(run)).select("id", "route").collect()
    rows = output.join(pl.read_parquet(figures.folder / "backlog.parquet"), on="id", validate="1:1")
    small, large = (rows[f"{model}_quality"].list.mean().to_numpy() for model in ("small", "large"))
    routed = np.where(rows["route"].to_numpy() == "small", small, large)
    share = float((rows["route"] == "small").mean())  # type: ignore[arg-type]
    drop = drop_of(large, routed)
    random = drop_of(large, (1 - share) * large + share * small)
    # The report's first line is its headline, in bold.
    headline = (run / "report" / "report.md").read_text(encoding="utf-8").split("\n", 1)[0].strip("*")
    return (
        "## A backlog, routed\n\n"
        f"{len(rows)} rows that nothing was fitted to, {share:.0%} of them on the small model. By the "
        f"`{figures.noted.get('metric')}` of their kept answers the drop is {cell(drop)} %; as many rows at random "
        f"would lose {cell(random)} %. The report of the night:\n\n> {headline}\n"
    )


def _curves(figures: Figures) -> str:
    lines = ["## Curves\n"]
    for pair in PAIRS:
        picture = figures.folder / f"{pair}.png"
        shutil.copyfile(figures.folder / pair / f"by-{figures.metric}" / "curve.png", picture)
        lines.append(f"![{pair}: drop by cost advantage]({picture.name})\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
