"""Training a router: an encoder that learns from a quality table which prompts are easy for the small model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from batchroute import models
from batchroute.errors import InputError
from batchroute.router import quality_table
from batchroute.router.averaging import Average
from batchroute.router.evaluation import Figures, figures_of
from batchroute.router.labels import LabelKind, Labels
from batchroute.router.model import LOAD_ERRORS, Router, ensure_padding, quiet_transformers, token_limit
from batchroute.router.notes import ROUTER_FILE, prompt_digest
from batchroute.router.objective import Objective, Targets
from batchroute.router.quality_table import QualityTable
from batchroute.router.scoring import encode, pad, score_encoded

_MIN_ROWS = 50
_SMALL_ENCODER = 100_000_000
_MAX_GRADIENT_NORM = 1.0
# Batches of similar lengths, drawn from pools of this many batches: little padding, and still a shuffled epoch.
_POOL_BATCHES = 50


class TrainOptions(BaseModel):
    """What to train, on what, and where to. The paper gives only epochs; the other defaults follow its code."""

    model_config = ConfigDict(extra="forbid")

    quality_table: str = Field(description="parquet file")
    base: str = Field(description="encoder to start from: a directory, a hub id, or embedded:NAME")
    output: Path = Field(description="directory of the new router")
    label: LabelKind = "gap"
    epochs: int = Field(default=5, ge=1)
    lr: float | None = Field(default=None, gt=0, description="default: 1e-4 below 100M parameters, else 1e-5")
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=128, ge=8, description="tokens")
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps")
    validation: float = Field(default=0.2, gt=0, lt=1, description="share of prompts, unless the table has a split")
    seed: int = Field(default=0, ge=0)
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """After every step: the loss of its batch, and after the last step of an epoch the figures on validation rows."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation: Figures | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The new router: it has the weights of `best_epoch` (from 1). `history` has the validation figures by epoch."""

    output: Path
    labels: Labels
    best_epoch: int
    history: list[Figures]
    train_rows: int
    validation_rows: int


def train(options: TrainOptions, on_progress: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train a router and put it into `options.output`: weights, tokenizer and `router.json`.

    One logit, binary cross-entropy with soft labels ("Hybrid LLM", ICLR 2024, arXiv 2404.14618, section 3). The labels
    are fitted to training rows only. The weights kept are those of the epoch that routes best on validation rows: by
    lowest mean quality drop over cost advantages of 10, 20, … 90 %, then by lowest cross-entropy. Not by cross-entropy
    alone, which asks for calibrated scores, while only their order routes.

    The folder appears when all is in it: an interrupted training leaves the old one, or none. With the same options,
    versions and CPU the weights are the same.

    Raises:
        InputError: the table, the base or the output cannot be used, or there is nothing to learn.
    """
    table = quality_table.read(options.quality_table)
    _check_output(options)
    train_rows, validation_rows = quality_table.split(table, options.validation, options.seed)
    if len(train_rows) + len(validation_rows) < _MIN_ROWS:
        raise InputError(
            f"the quality table '{table.path}' has {len(train_rows) + len(validation_rows)} rows to train and validate "
            f"on: a router needs at least {_MIN_ROWS}, and does better with thousands"
        )
    training, validation = table.take(train_rows), table.take(validation_rows)
    labels = Labels.fit(options.label, training.small, training.large)

    set_seed(options.seed)
    accelerator = _accelerator()
    router = _new_router(options, accelerator.device)
    options = options.model_copy(update={"lr": options.lr or _default_lr(router.model)})
    with _appearing_at_once(options.output) as folder:
        history: list[Figures] = []
        average = Average(router.model)
        for outcome in _epochs(options, accelerator, router, average, labels, training, validation, on_progress):
            history.append(outcome)
            best_epoch = 1 + min(range(len(history)), key=lambda i: (history[i].mean_drop, history[i].bce))
            if best_epoch == len(history):
                with average.in_place():
                    router.model.save_pretrained(folder)
        router.tokenizer.save_pretrained(folder)
        figures = {"epoch": best_epoch, **asdict(history[best_epoch - 1])}
        notes = _notes(options, router, labels, training, validation) | {"validation": figures}
        (folder / ROUTER_FILE).write_text(json.dumps(notes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return TrainResult(options.output, labels, best_epoch, history, len(training), len(validation))


def _epochs(
    options: TrainOptions,
    accelerator: Accelerator,
    router: Router,
    average: Average,
    labels: Labels,
    training: QualityTable,
    validation: QualityTable,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Figures]:
    """Train `router` in place, and say after every epoch how well it routes."""
    encoded, validation_encoded = encode(router, training.prompts), encode(router, validation.prompts)
    targets = Targets.of(labels, training, router.device)
    validation_targets = labels.apply(validation.small, validation.large)
    steps = -(-len(training) // options.batch_size) * options.epochs
    objective = Objective(router.model).to(router.device)
    model, optimizer = accelerator.prepare(objective, _optimizer(options, objective))
    warmup = round(options.warmup * steps)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(options.seed)
    step = 0
    for epoch in range(1, options.epochs + 1):
        batches = _batches(encoded.lengths, options.batch_size, rng)
        model.train()
        for number, rows in enumerate(batches, start=1):
            inputs = {name: tensor.to(router.device) for name, tensor in pad(router, encoded, rows).items()}
            loss = targets.loss(model(**inputs), rows).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            average.update()
            step += 1
            if on_progress is not None and number < len(batches):
                on_progress(Progress(epoch, options.epochs, step, steps, loss.item()))
        model.eval()
        with average.in_place():
            scores = score_encoded(router, validation_encoded).scores
        if np.isnan(scores).any():
            raise InputError(
                f"training diverged in epoch {epoch}: its scores are no numbers, so lower lr {options.lr:g}"
            )
        outcome = figures_of(scores, validation_targets, validation.small_mean, validation.large_mean)
        if on_progress is not None:
            on_progress(Progress(epoch, options.epochs, step, steps, loss.item(), outcome))
        yield outcome


def _accelerator() -> Accelerator:
    """One device; on a GPU in half precision, with float32 weights.

    Raises:
        InputError: started as one of several processes, which would all train the same router.
    """
    cuda = torch.cuda.is_available()
    precision = "no" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    accelerator = Accelerator(cpu=not cuda, mixed_precision=precision)
    if accelerator.num_processes > 1:
        raise InputError(
            f"training was started in {accelerator.num_processes} processes: start it in one, without a launcher"
        )
    return accelerator


def _new_router(options: TrainOptions, device: torch.device) -> Router:
    path = models.resolve(options.base)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            # float32 whatever the checkpoint has: half-precision weights lose small updates. The base may be a
            # classifier with another number of labels: its head is replaced.
            model = AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype=torch.float32, ignore_mismatched_sizes=True
            )
        except LOAD_ERRORS as error:
            raise InputError(f"cannot load the base '{options.base}': {models.first_line(error)}") from error
    # With it, other programs that load the router apply a sigmoid too.
    model.config.problem_type = "multi_label_classification"
    model.config.id2label, model.config.label2id = {0: "easy"}, {"easy": 0}
    ensure_padding(model, tokenizer, options.base)
    return Router(model.to(device), tokenizer, device, min(options.max_length, token_limit(model, tokenizer)))


def _optimizer(options: TrainOptions, model: torch.nn.Module) -> torch.optim.Optimizer:
    matrices: dict[str, Any] = {"params": [weights for weights in model.parameters() if weights.ndim > 1]}
    # Biases and the scales of norms: to pull them to 0 regularises nothing.
    vectors = {"params": [weights for weights in model.parameters() if weights.ndim <= 1], "weight_decay": 0.0}
    assert options.lr is not None
    return torch.optim.AdamW([matrices, vectors], lr=options.lr, weight_decay=options.weight_decay)


def _default_lr(model: torch.nn.Module) -> float:
    return 1e-4 if sum(weights.numel() for weights in model.parameters()) < _SMALL_ENCODER else 1e-5


def _batches(lengths: NDArray[np.int32], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Row numbers of one epoch's batches: rows of similar lengths together, batches in random order."""
    order = rng.permutation(len(lengths))
    pool = _POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _check_output(options: TrainOptions) -> None:
    output = options.output
    if output.exists() and not output.is_dir():
        raise InputError(f"the output '{output}' is a file: name a directory")
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise InputError(f"the output '{output}' is not empty: choose another directory, or allow to overwrite it")


@contextlib.contextmanager
def _appearing_at_once(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place when the block ends well, and is removed when it does not."""
    output = output.absolute()
    fresh, old = (output.with_name(f".{output.name}.{os.getpid()}.{suffix}") for suffix in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to '{output.parent}': {models.first_line(error)}") from error
    try:
        yield fresh
        if output.exists():
            output.rename(old)
        fresh.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)


def _notes(
    options: TrainOptions, router: Router, labels: Labels, training: QualityTable, validation: QualityTable
) -> dict[str, Any]:
    """What `router.json` says. The prompts' digests let `calibrate` and `evaluate` notice rows that were trained on."""
    metadata = training.metadata
    return {
        **labels.to_dict(),
        "base": options.base,
        "max_length": router.max_length,
        "models": {size: metadata.get(f"{size}_model") for size in ("small", "large")},
        "metric": metadata.get("metric"),
        "table": {"sha256": training.sha256, "train_rows": len(training), "validation_rows": len(validation)},
        "training": options.model_dump(include={"epochs", "lr", "batch_size", "weight_decay", "warmup", "seed"}),
        "versions": {name: version(name) for name in ("batchroute", "torch", "transformers", "accelerate")},
        "train_prompts": _digests(training),
        "validation_prompts": _digests(validation),
    }


def _digests(table: QualityTable) -> str:
    # One string, so that thousands of digests take one line of the file.
    return " ".join(sorted({prompt_digest(prompt) for prompt in table.prompts}))
