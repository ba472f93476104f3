"""What a reader of answers adds to the other signals: drops in percent, on rows that nothing was fitted to.

    python -m tests.benchmarks.answer_reading --base embedded:all-minilm-l6-v2 --max-length 256 T.parquet …
    python -m tests.benchmarks.answer_reading --base embedded:all-minilm-l6-v2 --answers sample_data/answers.parquet

A table has the small model's responses, or `label --keep-responses` put them beside it. The score is by heads on the
prompt, the reading by heads on prompt and answer; both are by heads that were fitted to four fifths of the prompts, and
are of the others. A confidence is of some signals, by a model that was fitted to other prompts too. Costs are not
compared: every row has an answer of the small model, and shares are of rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibration import measure
from batchroute.router.evaluation.curves import MeanQualities, curves, interval, random_curves
from batchroute.router.labels import Labels
from batchroute.router.training.answers import one_a_response
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable
from tests.benchmarks.embedded_ways import PAIRS, out_of_fold, pair

Floats = NDArray[np.float64]
SHARES = (0.1, 0.2, 0.4, 0.6)
_RESAMPLES = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--answers", help="answers of three models: its three pairs are tables too")
    parser.add_argument("--base", required=True)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--agree", type=int, default=0, help="samples that each of --answers is compared with")
    parser.add_argument("--most", type=int, default=10, help="responses to each prompt")
    options = parser.parse_args()
    for path in options.tables:
        compare(path, quality_table.read(path, responses=True), options)
    for weak, strong in PAIRS if options.answers else ():
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "t.parquet")
            answers = pl.read_parquet(options.answers)
            responses = pl.col(f"{weak}_responses").alias("small_responses")
            pair(answers, weak, strong, options.agree).hstack(answers.select(responses)).write_parquet(path)
            table = quality_table.read(path, responses=True)
        compare(options.answers, table, options, f"{weak} or {strong}")


def compare(path: str, table: QualityTable, options: argparse.Namespace, name: str = "") -> None:
    table = first_responses(table, options.most)
    assert table.responses is not None
    scores = out_of_fold(table, _gap(table), options.base, options.max_length, "prompt", path)
    single = one_a_response(table)
    readings = out_of_fold(single, _gap(single), options.base, options.max_length, "answer", path)
    ends = np.cumsum([len(texts) for texts in table.responses])
    read = dataclasses.replace(table, signals={**table.signals, "reading": np.split(readings, ends[:-1])})
    rows = Answers.of(read, scores.astype(np.float32))
    print(f"\n{name or path}: {len(rows):,} answers to {len(table):,} prompts", flush=True)

    def confidence(*left_out: str) -> Floats:
        signals = rows.signals.without(*left_out)
        return measure(signals, rows.small, rows.large, rows.prompts, 0, resamples=1).confidence.astype(np.float64)

    orders = {"prompt heads": scores[rows.row], "reading": rows.signals.reading}
    others = set(rows.signals.known) - {"score", "reading"}
    if others - {"tokens", "cut"}:
        orders[", ".join(sorted(others))] = confidence("score", "reading")
    orders["all but the reading"] = confidence("reading")
    orders["all"] = confidence()
    show(orders, MeanQualities.of(rows.small, rows.large, rows.prompts))


def _gap(table: QualityTable) -> Floats:
    """The label `gap` of each row."""
    return Labels.fit("gap", table.small, table.large).apply(table.small, table.large).astype(np.float64)


def first_responses(table: QualityTable, most: int) -> QualityTable:
    """The rows whose responses are known, with their first ones."""
    assert table.responses is not None
    known = table.take([row for row, texts in enumerate(table.responses) if texts])
    assert known.responses is not None

    def cut(named: Mapping[str, Sequence[Floats]]) -> dict[str, list[Floats]]:
        return {name: [values[:most] for values in some] for name, some in named.items()}

    return dataclasses.replace(
        known,
        small=[values[:most] for values in known.small],
        responses=[texts[:most] for texts in known.responses],
        signals=cut(known.signals),
        recorded=cut(known.recorded),
    )


def show(orders: Mapping[str, Floats], qualities: MeanQualities) -> None:
    draws = qualities.draws(_RESAMPLES, 0)
    random = random_curves(qualities, draws)
    drops = {name: curves(order, qualities, draws) for name, order in orders.items()}
    for name, found in {"at random": random, **drops}.items():
        words = [_interval(found.drop_at(share)) for share in SHARES]
        print(f"  {name:32} {' | '.join(words)}", flush=True)
    for share in SHARES:
        difference = drops["all"].drop_at(share) - drops["all but the reading"].drop_at(share)
        print(f"  the reading adds, at {share:.0%}: {_interval(difference)}", flush=True)


def _interval(values: Floats) -> str:
    low, high = interval(values[1:])
    return f"{values[0]:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
