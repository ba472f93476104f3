"""What a reader is worth that is fitted to tonight's rows: drops on the rows that it never saw, and how often it breaks
the limit of tonight's calibration.

    python -m tests.benchmarks.fitted_reader --base embedded:all-minilm-l6-v2 T.parquet …
    python -m tests.benchmarks.fitted_reader --base embedded:all-minilm-l6-v2 --answers sample_data/answers.parquet

Prompts are drawn from a table without replacement, as a run draws them. Heads are fitted to one answer of each, and the
confidence to the readings of heads that never saw its prompt, as `policy.calibrate.reader` does. All other answers are
ordered by that confidence, and by one of the same rows without the reading. The bounded rule's threshold decides on all
rows, whose qualities are known.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.confidence.answers import Answers
from batchroute.confidence.calibration import measure
from batchroute.router.calibration.points import within
from batchroute.router.evaluation.curves import MeanQualities, curves
from batchroute.router.heads.features import TextParts
from batchroute.router.labels import Labels
from batchroute.router.training.answers import texts_of
from batchroute.router.training.encoders import frozen_encoder
from batchroute.router.training.heads.cache import states_of
from batchroute.router.training.heads.learning import Rows, learn
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable
from tests.benchmarks.answer_reading import SHARES, first_responses
from tests.benchmarks.embedded_ways import PAIRS, pair

Floats = NDArray[np.float64]
LIMITS = (1.0, 2.0, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--answers", help="answers of three models: its three pairs are tables too")
    parser.add_argument("--base", required=True)
    parser.add_argument("--rows", type=int, default=400, help="to calibrate on")
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    for path in options.tables:
        show(path, path, quality_table.read(path, responses=True), options)
    for weak, strong in PAIRS if options.answers else ():
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "t.parquet")
            answers = pl.read_parquet(options.answers)
            responses = pl.col(f"{weak}_responses").alias("small_responses")
            pair(answers, weak, strong, 0).hstack(answers.select(responses)).write_parquet(path)
            table = quality_table.read(path, responses=True)
        show(f"{weak} or {strong}", options.answers, table, options)


def show(name: str, path: str, table: QualityTable, options: argparse.Namespace) -> None:
    night = Night(first_responses(table, 1), path, options.base)
    rng, found = np.random.default_rng(0), {}
    for draw in range(options.draws):
        for way, figures in night.decide(rng.permutation(len(night.table)), options.rows, draw):
            found.setdefault(way, []).append(figures)
    print(f"\n{name}: {options.rows} of {len(night.table):,} rows, {options.draws} draws", flush=True)
    print(f"  {'drop on the others, at a share of':32}" + "".join(f"{share:>14.0%}" for share in SHARES))
    for way, draws in found.items():
        means, errors = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / np.sqrt(len(draws))
        shares = slice(0, len(SHARES))
        drops = (f"{mean:>8.1f} ± {error:.1f}" for mean, error in zip(means[shares], errors[shares], strict=True))
        print(f"  {way:32}" + "  ".join(drops))
        limits = zip(LIMITS, means[len(SHARES) :: 2], means[len(SHARES) + 1 :: 2], strict=True)
        words = (f"{limit:g} %: broken in {broken:.1%}, {share:.1%} stay" for limit, broken, share in limits)
        print(f"  {'':32}" + "; ".join(words), flush=True)


class Night:
    """All answers of a table, one to a prompt, with all qualities known."""

    def __init__(self, table: QualityTable, path: str, base: str) -> None:
        encoder = frozen_encoder(base, 256, torch.device("cpu"), reads="answer")
        self.table, self.texts = table, texts_of(table, "answer")
        self.states = states_of(encoder, models.identity(base), path, self.texts, lambda done, whole: None, print)
        encoder.close()

    def decide(self, order: NDArray[np.intp], rows: int, seed: int) -> Iterator[tuple[str, list[float]]]:
        """Each way with its drops on the others, then for each limit whether it is broken, and the share that stays."""
        drawn, others = order[:rows], order[rows:]
        whole = Answers.of(
            dataclasses.replace(self.table, signals={**self.table.signals, "reading": self._read(drawn)})
        )
        gaps = whole.small - whole.large
        qualities = MeanQualities.of(whole.small[others], whole.large[others], [whole.prompts[row] for row in others])
        known = set(whole.signals.known)
        ways = {"the reading and the others": (), "the other signals": ("reading",)}
        if known - {"reading", "tokens", "cut"}:
            ways["the reading and the tokens"] = tuple(known - {"reading", "tokens", "cut"})
        for way, left_out in ways.items():
            signals = whole.signals.without(*left_out)
            prompts = [whole.prompts[row] for row in drawn]
            small, large = whole.small[drawn], whole.large[drawn]
            measured = measure(signals.take(drawn), small, large, prompts, seed, resamples=1)
            confidence = measured.model.apply(signals)
            drops = curves(confidence[others].astype(np.float64), qualities)
            figures = [float(drops.drop_at(share)[0]) for share in SHARES]
            for limit in LIMITS:
                point = within(measured.points, limit, "bounded")
                kept = np.zeros(len(gaps), np.bool_) if point is None else confidence >= np.float32(point.threshold)
                drop = -100.0 * float((gaps * kept).mean() / whole.large.mean())
                figures += [float(drop > limit), float(kept.mean())]
            yield way, figures

    def _read(self, drawn: NDArray[np.intp]) -> list[Floats]:
        """The reading of each row; that of the drawn ones by heads that never saw their prompt."""
        table = self.table.take(drawn)
        prompts = list(table.prompts)
        labels = Labels.fit("gap", table.small, table.large)
        rows = Rows(
            texts=[self.texts[row] for row in drawn],
            states=self.states[drawn],
            prompts=prompts,
            targets=labels.apply(table.small, table.large).astype(np.float64),
            qualities=MeanQualities.of(table.small_mean, table.large_mean, prompts),
            weights=np.ones(len(drawn)),
        )
        learned = learn(rows, 0, lambda line: None)
        parts = TextParts.of(self.texts, learned.ensemble.projection)
        readings, _ = learned.ensemble.score(torch.from_numpy(self.states), parts)
        readings[drawn] = learned.scores
        return [np.array([reading], np.float64) for reading in readings]


if __name__ == "__main__":
    main()
