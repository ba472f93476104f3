"""Training a router: it learns from a quality table which prompts are easy for the small model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from batchroute.errors import InputError
from batchroute.fields import SIDES
from batchroute.router.labels import Labels
from batchroute.router.model import Router
from batchroute.router.notes import ROUTER_FILE, prompt_digest
from batchroute.router.reading import READS
from batchroute.router.scoring import score
from batchroute.router.training.adding import table_of, with_added
from batchroute.router.training.answers import one_a_response
from batchroute.router.training.checkpoints import Checkpoints
from batchroute.router.training.choosing import Contest, without_measuring
from batchroute.router.training.figures import Figures
from batchroute.router.training.heads.train import HeadsResult, fit_heads, write_heads
from batchroute.router.training.learner import Learner, Progress, make_accelerator, versions
from batchroute.router.training.options import TrainOptions
from batchroute.router.training.split import split
from batchroute.router.training.verdict import Verdict
from batchroute.tables.quality_table import QualityTable

if TYPE_CHECKING:
    from accelerate import Accelerator

_MIN_ROWS = 50


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A router, and what it is worth on rows that it was not fitted to.

    Attributes:
        best_epoch: the router has the weights of this epoch, from 1; 1 for heads.
        history: the validation figures of each epoch; of heads those by folds of the training rows alone.
        validation_rows: 0 for heads, which learn from these rows too.
    """

    output: Path
    labels: Labels
    verdict: Verdict
    best_epoch: int
    history: list[Figures]
    train_rows: int
    validation_rows: int
    method: Literal["heads", "finetune"]


def train(
    options: TrainOptions,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a router and write it to `options.output`: weights, tokenizer and `router.json`.

    `auto` chooses the method, and says why (`without_measuring`, `Contest`). By `heads` the encoder stays as it is, and
    several heads learn from its states (`fit_heads`). By `finetune` the router has one logit and learns by binary
    cross-entropy with soft labels ("Hybrid LLM", ICLR 2024, arXiv 2404.14618, section 3), with both models' qualities
    as auxiliary targets (`Objective`) and averaged weights (`Average`). The weights kept are those of the epoch that
    separates the quality gaps of validation rows best; cross-entropy would ask for calibrated scores, but only their
    order routes. Labels are fitted to training rows only.

    If an interrupted training is started again with the same options, it goes on after its last whole epoch. With the
    same options, versions, CPU and number of threads the weights are the same, interrupted or not. Under a launcher,
    each batch is split over the processes, and the main process writes.

    A reader of answers is heads that learn from the small model's responses one by one (`one_a_response`), each with
    its prompt.

    Args:
        on_progress, on_note: called in the main process only. Notes are the verdict on the pair, then warnings, one
            sentence each.

    Raises:
        InputError: the table, the base or the output cannot be used, or there is nothing to learn.
    """
    accelerator = make_accelerator()
    say = on_note if on_note is not None and accelerator.is_main_process else _nothing
    table = table_of(options.quality_table, options.reads == "answer", say)
    _check_output(options)
    train_rows, validation_rows = split(table, options.validation, options.test, options.seed)
    if len(train_rows) + len(validation_rows) < _MIN_ROWS:
        raise InputError(
            f"the quality table '{table.path}' has {len(train_rows) + len(validation_rows)} rows to train and validate "
            f"on: a router needs at least {_MIN_ROWS}, and does better with thousands"
        )
    aside = _prompts(table) - _prompts(table.take(train_rows))
    training, validation = with_added(table, train_rows, aside, options.add, say), table.take(validation_rows)
    both_rows = np.sort(np.concatenate([train_rows, validation_rows]))
    whole = with_added(table, both_rows, _prompts(table) - _prompts(table.take(both_rows)), options.add, _nothing)
    if options.reads == "answer":
        whole = one_a_response(whole)
        say(f"{len(whole):,} answers to {len(set(whole.prompts)):,} prompts to learn from")
    task = _Task(options, table, training, validation, whole, accelerator, on_progress, say)
    method, reason = _method(options, accelerator)
    if method == "finetune":
        if reason:
            say(reason)
        return task.finetune()
    if method == "heads":
        result = task.heads()
        if reason:
            say(reason)
        return result
    return task.both()


def _method(options: TrainOptions, accelerator: Accelerator) -> tuple[str, str]:
    """The method, and why; `auto` where both are to be measured."""
    if options.reads == "answer":
        return "heads", ""
    if options.method != "auto":
        return options.method, ""
    return without_measuring(accelerator.num_processes, accelerator.device.type == "cuda") or ("auto", "")


@dataclass(frozen=True, slots=True)
class _Task:
    """One training.

    Attributes:
        training, validation, whole: the rows that learn and those that choose; `whole` is both.
    """

    options: TrainOptions
    table: QualityTable
    training: QualityTable
    validation: QualityTable
    whole: QualityTable
    accelerator: Accelerator
    on_progress: Callable[[Progress], None] | None
    say: Callable[[str], None]

    def finetune(self) -> TrainResult:
        options, training, validation = self.options, self.training, self.validation
        _check_large(validation, "validation")
        verdict, labels = _look(self.table, training, options, self.say)
        learner = Learner(options, labels, training, validation, self.accelerator, self.on_progress)
        if done := learner.resume():
            self.say(f"going on after epoch {done}, the last whole one of an interrupted training")
        elif learner.began_anew is not None:
            self.say(learner.began_anew)
        learner.train()
        best, history = learner.best_epoch, learner.history
        notes = {
            **_notes(options, labels, verdict, training, learner.router.max_length),
            "table": {"sha256": training.sha256, "train_rows": len(training), "validation_rows": len(validation)},
            "training": learner.options.model_dump(
                include={"epochs", "patience", "lr", "batch_size", "weight_decay", "warmup", "seed"}
            ),
            "validation": {"epoch": best, **asdict(history[best - 1])},
            "train_prompts": _digests(training),
            "validation_prompts": _digests(validation),
        }
        learner.publish(ROUTER_FILE, notes)
        rows = len(training), len(validation)
        return TrainResult(options.output, labels, verdict, best, history, *rows, method="finetune")

    def heads(self) -> TrainResult:
        """Under a launcher the main process alone works: the encoder's pass is the longest part, and is done once."""
        options, whole = self.options, self.whole
        _check_large(whole, "training")
        verdict, labels = _look(self.table, whole, options, self.say)
        history: list[Figures] = []
        if self.accelerator.is_main_process:
            history = [self._written_heads(options, labels, verdict, whole).figures]
        self.accelerator.wait_for_everyone()
        return TrainResult(options.output, labels, verdict, 1, history, len(whole), 0, method="heads")

    def both(self) -> TrainResult:
        """Fine-tune, fit heads to the same rows, and keep what orders the validation rows better; heads, if in doubt.

        Heads that are kept learn from the validation rows too.
        """
        tuned = self.finetune()
        trial = self.options.model_copy(
            update={"output": self.options.output.with_name(f"{self.options.output.name}.trial")}
        )
        shutil.rmtree(trial.output, ignore_errors=True)
        self._written_heads(trial, tuned.labels, tuned.verdict, self.training)
        heads, finetuned = self._validated(trial.output), self._validated(tuned.output)
        shutil.rmtree(trial.output)
        contest = Contest.of(heads, finetuned, self.validation, self.options.seed)
        self.say(contest.sentence())
        if contest.winner == "finetune":
            return tuned
        labels = Labels.fit(self.options.label, self.whole.small, self.whole.large)
        result = self._written_heads(self.options, labels, tuned.verdict, self.whole)
        rows = len(self.whole), 0
        return TrainResult(self.options.output, labels, tuned.verdict, 1, [result.figures], *rows, method="heads")

    def _written_heads(
        self, options: TrainOptions, labels: Labels, verdict: Verdict, rows: QualityTable
    ) -> HeadsResult:
        # An output that cannot be written is found before a minute of work.
        if anew := Checkpoints(options.output, "heads").prepare():
            self.say(anew)
        result = fit_heads(options, labels, rows, self.accelerator.device, self.say)
        notes = {
            **_notes(options, labels, verdict, rows, result.max_length),
            "table": {"sha256": rows.sha256, "train_rows": len(rows), "validation_rows": 0},
            "training": {"method": "heads", "heads": list(result.alone), "seed": options.seed},
            "validation": {"separation_alone": result.alone, **asdict(result.figures)},
            "train_prompts": _digests(rows),
            "validation_prompts": "",
        }
        write_heads(options, result, notes)
        self.say(result.sentence())
        return result

    def _validated(self, output: Path) -> NDArray[np.float32]:
        router = Router.load(str(output), self.accelerator.device)
        scores = score(router, self.validation.prompts).checked(str(output)).scores
        router.close()
        return scores


def _prompts(table: QualityTable) -> set[str]:
    return {prompt.strip() for prompt in table.prompts}


def _look(
    table: QualityTable, training: QualityTable, options: TrainOptions, say: Callable[[str], None]
) -> tuple[Verdict, Labels]:
    """The verdict on the pair, and the labels, fitted to training rows only; says both, with their warnings."""
    verdict = Verdict.on(table)
    for sentence in verdict.sentences():
        say(sentence)
    labels = Labels.fit(options.label, training.small, training.large)
    for sentence in _warnings(table, labels):
        say(sentence)
    return verdict, labels


def _nothing(sentence: str) -> None:
    pass


def _check_large(table: QualityTable, kind: str) -> None:
    if table.large_mean.mean() == 0.0:
        more = "give more rows to validation, or " if kind == "validation" else ""
        raise InputError(
            f"the large model's mean quality on the {len(table):,} {kind} rows is 0, so a drop in percent means "
            f"nothing: {more}shift the metric"
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


def _notes(
    options: TrainOptions, labels: Labels, verdict: Verdict, training: QualityTable, max_length: int
) -> dict[str, Any]:
    """What `router.json` holds by any method. The digests that are added let `calibrate` and `evaluate` leave out rows
    that were trained on."""
    return {
        **labels.to_dict(),
        **({READS: options.reads} if options.reads == "answer" else {}),
        "base": options.base,
        "max_length": max_length,
        "models": {side: training.metadata.get(f"{side}_model") for side in SIDES},
        "metric": training.metadata.get("metric"),
        "versions": versions(),
        "verdict": {**asdict(verdict), "kind": verdict.kind},
    }


def _digests(table: QualityTable) -> str:
    # One string takes one line of the file, however many digests it holds.
    return " ".join(sorted({prompt_digest(prompt) for prompt in table.prompts}))
