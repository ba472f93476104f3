"""The learner: steps, epochs and checkpoints of one training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from transformers import get_linear_schedule_with_warmup, set_seed

from batchroute import models
from batchroute.errors import InputError
from batchroute.models import quiet_transformers
from batchroute.router.evaluation.curves import MeanQualities
from batchroute.router.labels import Labels
from batchroute.router.scoring import Encoded, encode, pad, score_encoded
from batchroute.router.training.averaging import Average
from batchroute.router.training.checkpoints import Checkpoints
from batchroute.router.training.encoders import default_lr, optimizer, untrained_router
from batchroute.router.training.figures import Figures, figures_of
from batchroute.router.training.objective import Objective, Targets
from batchroute.router.training.options import TrainOptions
from batchroute.tables.quality_table import QualityTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_GRADIENT_NORM = 1.0
# Rows are sorted by length within pools of this many batches: little padding, and still a shuffled epoch.
_POOL_BATCHES = 50
_VERSIONS = ("batchroute", "torch", "transformers", "accelerate")
# The table's digest holds those that are added; what an earlier version began goes on.
_NOT_LEARNED = {"quality_table", "output", "overwrite", "allow_pickle", "method", "reads", "add"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Reported after each step: the loss of its batch and, after the last step of an epoch, the validation figures."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation: Figures | None = None


class Learner:
    """One training in progress: the state that changes from step to step, and its checkpoints.

    Attributes:
        began_anew: after `resume`, a sentence if the state of another training was removed.
    """

    def __init__(
        self,
        options: TrainOptions,
        labels: Labels,
        training: QualityTable,
        validation: QualityTable,
        accelerator: Accelerator,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        set_seed(options.seed)
        self.accelerator = accelerator
        self.router = untrained_router(options.base, options.max_length, accelerator.device, options.allow_pickle)
        self.options = options.model_copy(update={"lr": options.lr or default_lr(self.router.model)})
        self.labels, self.training, self.validation = labels, training, validation
        self.on_progress = on_progress if accelerator.is_main_process else None
        self.targets = Targets.of(labels, training, accelerator.device)
        self.batches = -(-len(training) // options.batch_size)
        self.average = Average(self.router.model)
        objective = Objective(self.router.model).to(accelerator.device)
        assert self.options.lr is not None
        adam = optimizer(objective, self.options.lr, options.weight_decay)
        steps = self.batches * options.epochs
        self.schedule = get_linear_schedule_with_warmup(adam, round(options.warmup * steps), steps)  # type: ignore[no-untyped-call]
        self.model, self.optimizer = accelerator.prepare(objective, adam)
        self.history: list[Figures] = []
        earlier = [self._fingerprint(1), self._fingerprint(2)]
        self.checkpoints = Checkpoints(options.output, self._fingerprint(3), earlier)
        self.began_anew: str | None = None

    @property
    def best_epoch(self) -> int:
        """The epoch with the best separation, from 1; of equal epochs the one with the lower cross-entropy."""
        return 1 + max(range(len(self.history)), key=lambda i: (self.history[i].separation, -self.history[i].bce))

    def resume(self) -> int:
        """Load the checkpoint of an interrupted training, if there is one.

        Returns:
            The number of epochs that it completed.

        Raises:
            InputError: the work folder cannot be written, or the processes see different files in it.
        """
        if self.accelerator.is_main_process:
            self.began_anew = self.checkpoints.prepare()
        self.accelerator.wait_for_everyone()
        state = self.checkpoints.load()
        if state is not None:
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.history = [Figures(**figures) for figures in state["history"]]
        done = len(self.history)
        if self.accelerator.num_processes > 1 and len(set(gather_object([done]))) > 1:
            raise InputError(
                f"the processes see different files in '{self.checkpoints.folder}': put the output where all can read"
            )
        return done

    def train(self) -> None:
        """Train the remaining epochs."""
        encoded = encode(self.router, self.training.prompts), encode(self.router, self.validation.prompts)
        while not self._finished():
            epoch = len(self.history) + 1
            loss = self._epoch(epoch, encoded[0])
            self._validate(epoch, loss, encoded[1])

    def publish(self, file: str, notes: dict[str, Any]) -> None:
        """Write the best weights, the tokenizer and the notes to the output, then end all processes together."""
        if self.accelerator.is_main_process:
            folder = self.checkpoints.epoch(self.best_epoch)
            text = json.dumps(notes, indent=2, ensure_ascii=False)
            with self.checkpoints.writing(), quiet_transformers():
                cast("PreTrainedTokenizerBase", self.router.tokenizer).save_pretrained(folder)
                (folder / file).write_text(text + "\n", encoding="utf-8")
                # safetensors makes files that only their owner can read; a job may run as another user.
                for weights in folder.glob("*.safetensors"):
                    weights.chmod((folder / file).stat().st_mode)
            self.checkpoints.publish(self.best_epoch)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _finished(self) -> bool:
        done = len(self.history)
        return done == self.options.epochs or (done > 0 and done - self.best_epoch >= self.options.patience)

    def _epoch(self, epoch: int, encoded: Encoded) -> float:
        """One pass over the training rows; the loss of its last batch."""
        options, accelerator = self.options, self.accelerator
        # Seeded by epoch and process, so that random numbers do not depend on where an interruption fell.
        set_seed(options.seed + 1_000_003 * epoch + accelerator.process_index)
        batches = _batches(encoded.lengths, options.batch_size, np.random.default_rng([options.seed, epoch]))
        self.model.train()
        for number, rows in enumerate(batches, start=1):
            loss = self._step(rows, encoded)
            if self.on_progress is not None and number < len(batches):
                self.on_progress(self._progress(epoch, number, loss.item()))
        return float(loss.item())

    def _step(self, rows: NDArray[np.intp], encoded: Encoded) -> torch.Tensor:
        """Train on one batch. The mean of the processes' gradients is the gradient of the batch's mean loss."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        part = rows[rank::world]
        # A process without a row computes one with weight 0, since the other processes wait for its gradient.
        scale = world / len(rows) if len(part) else 0.0
        part = part if len(part) else rows[:1]
        inputs = pad(self.router, encoded, part)
        loss = self.targets.loss(self.model(**inputs), part).sum() * scale
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.average.update()
        return loss

    def _validate(self, epoch: int, loss: float, encoded: Encoded) -> None:
        """The main process measures the averaged weights on validation rows, then saves the state."""
        result: list[Any] = [None]
        if self.accelerator.is_main_process:
            self.model.eval()
            with self.average.in_place():
                result = [self._figures(epoch, encoded)]
                if isinstance(result[0], Figures):
                    self.history.append(result[0])
                    if self.best_epoch == epoch:
                        with self.checkpoints.writing(), quiet_transformers():
                            model = cast("PreTrainedModel", self.router.model)
                            model.save_pretrained(self.checkpoints.epoch(epoch))
        result = broadcast_object_list(result) if self.accelerator.num_processes > 1 else result
        if not isinstance(result[0], Figures):
            raise InputError(result[0])
        if self.accelerator.is_main_process:
            self.checkpoints.save(self._state(), self.best_epoch)
        else:
            self.history.append(result[0])
        if self.on_progress is not None:
            self.on_progress(self._progress(epoch, self.batches, loss, result[0]))

    def _figures(self, epoch: int, encoded: Encoded) -> Figures | str:
        """The figures, or a sentence that says why there are none."""
        validation = self.validation
        scores = score_encoded(self.router, encoded).scores
        if np.isnan(scores).any():
            return f"training diverged in epoch {epoch}: its scores are no numbers, so lower lr {self.options.lr:g}"
        labels = self.labels.apply(validation.small, validation.large)
        qualities = MeanQualities.of(validation.small_mean, validation.large_mean, validation.prompts)
        return figures_of(scores, labels, qualities)

    def _progress(self, epoch: int, number: int, loss: float, validation: Figures | None = None) -> Progress:
        step = (epoch - 1) * self.batches + number
        return Progress(epoch, self.options.epochs, step, self.batches * self.options.epochs, loss, validation)

    def _parts(self) -> dict[str, Any]:
        """The parts with a state of their own. fp16 adds the scaler of the loss."""
        objective = self.accelerator.unwrap_model(self.model)
        parts = {
            "objective": objective,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "average": self.average,
        }
        scaler = self.accelerator.scaler
        return parts if scaler is None else {**parts, "scaler": scaler}

    def _state(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self._parts().items()}
        return {**states, "history": [asdict(figures) for figures in self.history]}

    def _fingerprint(self, version: Literal[1, 2, 3]) -> str:
        # No weight of an epoch depends on the patience, so that a training may stop earlier or later than was meant.
        unused = _NOT_LEARNED if version < 3 else {*_NOT_LEARNED, "patience"}
        whole = {
            "options": self.options.model_dump(mode="json", exclude=unused),
            "table": self.training.sha256,
            "base": models.identity(self.options.base, version=1 if version == 1 else 2),
            "versions": versions(),
            "processes": self.accelerator.num_processes,
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def make_accelerator() -> Accelerator:
    """This process among those of its launcher. On a GPU it computes in half precision, with float32 weights."""
    cuda = torch.cuda.is_available()
    precision = "no" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Accelerator(cpu=not cuda, mixed_precision=precision)


def versions() -> dict[str, str]:
    """Versions of the packages that the weights depend on."""
    return {name: version(name) for name in _VERSIONS}


def _batches(lengths: NDArray[np.int32], batch_size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Row numbers of one epoch's batches: rows of similar length together, batches in random order."""
    order = rng.permutation(len(lengths))
    pool = _POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
