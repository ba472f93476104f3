"""How well each method orders rows that it was not fitted to: drops in percent, with intervals.

    python -m tests.benchmarks.router_methods --base embedded:all-minilm-l6-v2 TABLE.parquet …
    python -m tests.benchmarks.router_methods --base embedded:all-minilm-l6-v2 --labels prob trans -- TABLE.parquet …

The rows are split as `train --seed 0 --test 0.3` does (or by the table's column `split`), so that every method and seed
has the same test rows. Beside the heads stand TF-IDF with ridge regression of the gap, the mean gap of each task on the
training rows (what the task's own label tells, where the table has one), and a random order. Of several labels each has
heads of its own. A difference is paired: both orders on the same 1,000 resamples of the test rows. `--router DIR` adds
a trained router whose training left these rows aside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from batchroute import models
from batchroute.router.evaluation.curves import COST_ADVANTAGES, Curves, MeanQualities, curves, interval, random_curves
from batchroute.router.heads.members import combined
from batchroute.router.labels import LabelKind, Labels
from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.router.training.encoders import frozen_encoder
from batchroute.router.training.heads.cache import states_of
from batchroute.router.training.heads.fitting import KINDS, Inputs, Lesson, fit, numbered
from batchroute.router.training.split import split
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

Floats = NDArray[np.float64]
_RESAMPLES = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--base", required=True)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", nargs="+", default=["gap"], choices=["det", "prob", "trans", "gap"])
    parser.add_argument("--router", action="append", default=[])
    options = parser.parse_args()
    for path in options.tables:
        compare(path, options)


def compare(path: str, options: argparse.Namespace) -> None:
    table = quality_table.read(path)
    parts = split(table, 0.1, 0.3, 0)
    known = np.sort(np.concatenate(parts))
    aside = np.setdiff1d(np.arange(len(table)), known)
    training, test = table.take(known), table.take(aside)
    print(f"\n{path}: {len(training):,} rows to learn from, {len(test):,} to test", flush=True)
    scores: dict[str, list[Floats]] = {"TF-IDF + ridge": [tfidf(training, test)]}
    if table.tasks is not None:
        scores["the task's mean"] = [task_means(training, test)]
    scores |= {f"router {name}": [routed(name, test)] for name in options.router}
    router = frozen_encoder(options.base, options.max_length, torch.device("cpu"))
    states = states_of(router, models.identity(options.base), path, table.prompts, lambda done, whole: None, print)
    for label in options.labels:
        members = heads(training, test, states[known], states[aside], label, options.seeds)
        names = KINDS if training.tasks is not None else KINDS[::2]
        scores |= {f"  {name}, {label}": [one[:, i] for one in members] for i, name in enumerate(names)}
        scores[f"heads, {label}"] = [combined(torch.from_numpy(one))[0].numpy() for one in members]
    show(scores, test)


def heads(
    training: QualityTable,
    test: QualityTable,
    known: NDArray[np.float32],
    asked: NDArray[np.float32],
    label: LabelKind,
    seeds: int,
) -> list[Floats]:
    """The predictions of each head, by seed: shapes [test rows, heads]."""
    started = time.perf_counter(), time.process_time()
    inputs = Inputs.of(training.prompts, known)
    new = inputs.of_others(test.prompts, asked)
    labels = Labels.fit(label, training.small, training.large)
    targets = labels.apply(training.small, training.large)
    if labels.t_star is not None:
        print(f"t* {labels.t_star:.3g}")
    rows = inputs.features, inputs.features @ inputs.rotation, targets.astype(np.float64), np.ones(len(training))
    lesson = Lesson(*rows, numbered(training.tasks))
    found = [fit(lesson, seed).predict(new, new @ inputs.rotation).double().numpy() for seed in range(seeds)]
    seconds = (time.perf_counter() - started[0]) / seeds, (time.process_time() - started[1]) / seeds
    print(f"heads, {label}: {seconds[0]:.0f} s a seed, {seconds[1]:.1f} s of a core, without folds", flush=True)
    return found


def tfidf(training: QualityTable, test: QualityTable) -> Floats:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    known = vectorizer.fit_transform(training.prompts)
    ridge = Ridge(alpha=1.0, solver="sparse_cg").fit(known, training.small_mean - training.large_mean)
    predicted: Floats = ridge.predict(vectorizer.transform(test.prompts))
    return predicted


def task_means(training: QualityTable, test: QualityTable) -> Floats:
    """Shrunk to the mean of all rows, as if five of them had been seen."""
    assert training.tasks is not None
    assert test.tasks is not None
    gap = training.small_mean - training.large_mean
    tasks = np.array([task or "" for task in training.tasks])
    means = {
        task: (gap[tasks == task].sum() + 5 * gap.mean()) / ((tasks == task).sum() + 5) for task in np.unique(tasks)
    }
    return np.array([means.get(task or "", gap.mean()) for task in test.tasks])


def routed(name: str, test: QualityTable) -> Floats:
    return score(Router.load(name, torch.device("cpu")), test.prompts).scores.astype(np.float64)


def show(scores: Mapping[str, list[Floats]], test: QualityTable) -> None:
    qualities = MeanQualities.of(test.small_mean, test.large_mean, test.prompts)
    draws = qualities.draws(_RESAMPLES, 0)
    line("at random", [random_curves(qualities, draws)])
    found = {name: [curves(one, qualities, draws) for one in some] for name, some in scores.items()}
    for name, some in found.items():
        line(name, some)
    *others, last = [name for name in found if not name.startswith("  ")]
    means = {name: np.mean([one.drop_at(0.4) for one in some], axis=0) for name, some in found.items()}
    for name in others:
        difference = means[last] - means[name]
        low, high = interval(difference[1:])
        print(f"  {last} − {name} at 40 %: {difference[0]:.1f} ({low:.1f} to {high:.1f})")


def line(name: str, some: list[Curves]) -> None:
    """Mean over the seeds, with the interval of the mean at 40 %; then each seed at 40 %."""
    drops = {share: np.mean([one.drop_at(share) for one in some], axis=0) for share in COST_ADVANTAGES}
    low, high = interval(drops[COST_ADVANTAGES[-1]][1:])
    values = " / ".join(f"{values[0]:.1f}" for values in drops.values())
    seeds = ", ".join(f"{one.drop_at(COST_ADVANTAGES[-1])[0]:.1f}" for one in some) if len(some) > 1 else ""
    print(f"  {name:24} {values} ({low:.1f} to {high:.1f})" + (f"   by seed {seeds}" if seeds else ""), flush=True)


if __name__ == "__main__":
    main()
