"""Training a router: an encoder learns from a quality table which prompts are easy for the small model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.router.labels import Labels
from batchroute.router.notes import ROUTER_FILE, prompt_digest
from batchroute.router.training.figures import Figures
from batchroute.router.training.learner import Learner, Progress, TrainOptions, make_accelerator, versions
from batchroute.router.training.verdict import Verdict
from batchroute.tables import quality_table
from batchroute.tables.quality_table import QualityTable

_MIN_ROWS = 50


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The router has the weights of `best_epoch` (from 1); `history` holds the validation figures of each epoch."""

    output: Path
    labels: Labels
    verdict: Verdict
    best_epoch: int
    history: list[Figures]
    train_rows: int
    validation_rows: int


def train(
    options: TrainOptions,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a router and write it to `options.output`: weights, tokenizer and `router.json`.

    The router has one logit and learns by binary cross-entropy with soft labels ("Hybrid LLM", ICLR 2024, arXiv
    2404.14618, section 3), with both models' qualities as auxiliary targets (`Objective`) and averaged weights
    (`Average`). The labels are fitted to training rows only. The weights kept are those of the epoch that separates the
    quality gaps of validation rows best; cross-entropy would ask for calibrated scores, but only their order routes.

    If an interrupted training is started again with the same options, it goes on after its last whole epoch. With the
    same options, versions, CPU and number of threads the weights are the same, interrupted or not. Under a launcher,
    each batch is split over the processes, and the main process writes.

    Args:
        on_progress, on_note: called in the main process only. Notes are the verdict on the pair, then warnings, one
            sentence each.

    Raises:
        InputError: the table, the base or the output cannot be used, or there is nothing to learn.
    """
    table = quality_table.read(options.quality_table)
    _check_output(options)
    train_rows, validation_rows = quality_table.split(table, options.validation, options.test, options.seed)
    if len(train_rows) + len(validation_rows) < _MIN_ROWS:
        raise InputError(
            f"the quality table '{table.path}' has {len(train_rows) + len(validation_rows)} rows to train and validate "
            f"on: a router needs at least {_MIN_ROWS}, and does better with thousands"
        )
    training, validation = table.take(train_rows), table.take(validation_rows)
    _check_validation(validation)
    accelerator = make_accelerator()
    say = on_note if on_note is not None and accelerator.is_main_process else _nothing
    verdict = Verdict.on(table)
    for sentence in verdict.sentences():
        say(sentence)
    labels = Labels.fit(options.label, training.small, training.large)
    for sentence in _warnings(table, labels):
        say(sentence)
    learner = Learner(options, labels, training, validation, accelerator, on_progress)
    if done := learner.resume():
        say(f"going on after epoch {done}, the last whole one of an interrupted training")
    learner.train()
    learner.publish(ROUTER_FILE, _notes(learner, verdict))
    epoch, history = learner.best_epoch, learner.history
    return TrainResult(options.output, labels, verdict, epoch, history, len(training), len(validation))


def _nothing(sentence: str) -> None:
    pass


def _check_validation(validation: QualityTable) -> None:
    if validation.large_mean.mean() == 0.0:
        raise InputError(
            f"the large model's mean quality on the {len(validation):,} validation rows is 0, so a drop in percent "
            "means nothing: give more rows to validation, or shift the metric"
        )


def _warnings(table: QualityTable, labels: Labels) -> list[str]:
    warnings = [] if labels.best is None else labels.best.warnings()
    if labels.kind in ("prob", "trans") and max(len(quality) for quality in (*table.small, *table.large)) == 1:
        warnings.append(
            f"with one response per model '{labels.kind}' has no shares to learn: its labels are 0 or 1, as 'det'"
        )
    if table.failed:
        warnings.append(f"{table.failed:,} rows of the table are left out: labelling them failed")
    return warnings


def _check_output(options: TrainOptions) -> None:
    output = options.output
    if output.exists() and not output.is_dir():
        raise InputError(f"the output '{output}' is a file: name a directory")
    if output.is_mount():
        raise InputError(
            f"the output '{output}' is a mount point, which cannot be replaced: name a directory inside it"
        )
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise InputError(f"the output '{output}' is not empty: choose another directory, or allow to overwrite it")


def _notes(learner: Learner, verdict: Verdict) -> dict[str, Any]:
    """The content of `router.json`. Its digests let `calibrate` and `evaluate` leave out rows that were trained on."""
    training, validation, best = learner.training, learner.validation, learner.best_epoch
    return {
        **learner.labels.to_dict(),
        "base": learner.options.base,
        "max_length": learner.router.max_length,
        "models": {side: training.metadata.get(f"{side}_model") for side in SIDES},
        "metric": training.metadata.get("metric"),
        "table": {"sha256": training.sha256, "train_rows": len(training), "validation_rows": len(validation)},
        "training": learner.options.model_dump(
            include={"epochs", "patience", "lr", "batch_size", "weight_decay", "warmup", "seed"}
        ),
        "versions": versions(),
        "verdict": {**asdict(verdict), "kind": verdict.kind},
        "validation": {"epoch": best, **asdict(learner.history[best - 1])},
        "train_prompts": _digests(training),
        "validation_prompts": _digests(validation),
    }


def _digests(table: QualityTable) -> str:
    # One string takes one line of the file, however many digests it holds.
    return " ".join(sorted({prompt_digest(prompt) for prompt in table.prompts}))
