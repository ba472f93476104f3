"""The router's model: it reads a prompt and scores how easy it is for the small model.

It is a sequence classifier, or an encoder whose folder holds heads (`HEADS_FILE`).
"""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute import models
from batchroute.errors import InputError
from batchroute.hardware import devices
from batchroute.hardware.devices import Precision
from batchroute.models.configuration import embedded_tokens
from batchroute.models.pooling import mean_of_tokens
from batchroute.router import loading
from batchroute.router.heads import ensemble
from batchroute.router.neighbours import SHARINGS, Sharing, sharing
from batchroute.router.notes import ROUTER_FILE, read_json
from batchroute.router.reading import Reads, check_reads

if TYPE_CHECKING:
    from batchroute.router.fast.first_token import FirstToken
    from batchroute.router.heads.ensemble import Ensemble
    from batchroute.router.loading import Model, Tokenizer
    from batchroute.router.plain.bert import BertEncoder

_HOPELESS = 20
# What a CPU's caches hold. MiniLM and DeBERTa-base are at most 5 % slower at 512 and 2,048, and 25 % at 8,192.
_CPU_TOKEN_BUDGET = 1_024
# Enough to fill a GPU. In chunks of 2,048 task prompts 8 % of the tokens are padding; with twice the budget 13 %.
_CUDA_TOKEN_BUDGET = 16_384


class Router:
    """A classifier with one logit (score = sigmoid) or two labels (score = softmax probability of label 1), or an
    encoder with heads.

    Attributes:
        heads: score what `pooled` gives; None for a classifier, whose scores `probabilities` gives.
        max_length: tokens read of a prompt, special tokens included; longer prompts are cut.
        reads: `answer` for a reader of answers. `batchroute.router.reading.joined` makes its texts, and `encode` cuts
            their middle.
        inputs: names of the tensors that the tokenizer makes and the model takes.
        known_tokens: how many tokens the model has embeddings of; None: it does not tell.
        token_budget: padded tokens (rows × longest row) in one batch; `score` lowers it when memory runs out.
        load_seconds: time that `load` took.
        raised: the kind of the last error that the model raised for a text; None: it raised none.
        sharing: which texts may share a batch.
        notes: a sentence each if `load` found that this architecture is slower than others.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        device: torch.device,
        max_length: int,
        heads: Ensemble | None = None,
        reads: Reads = "prompt",
    ) -> None:
        self.model = model
        self.reads = reads
        self.heads = heads
        self.tokenizer = tokenizer
        self.device = device
        self.max_length = max_length
        self.load_seconds = 0.0
        self.name = ""
        self.sharing: Sharing = "padded"
        self.notes: list[str] = []
        self.raised: str | None = None
        self.token_budget = _CUDA_TOKEN_BUDGET if device.type == "cuda" else _CPU_TOKEN_BUDGET
        self._last_layer: FirstToken | BertEncoder | None = None
        self._unscored = 0
        accepted = inspect.signature(model.forward).parameters
        self.inputs = [name for name in tokenizer.model_input_names if name in accepted]
        self.known_tokens = embedded_tokens(model)

    @classmethod
    def load(
        cls,
        name: str,
        device: torch.device,
        precision: Precision = "auto",
        max_length: int | None = None,
        allow_pickle: bool = False,
        reads: Reads = "prompt",
    ) -> Self:
        """Load the router from a directory, a hub id or `embedded:NAME` onto `device`, ready to score.

        Its `max_length` is the smallest of the argument, the length it was trained with (`router.json`), the
        tokenizer's limit and the model's positions.

        Args:
            precision: `auto` is float32 on a CPU and half precision on a GPU. `int8` is for CPUs.
            allow_pickle: load weights that are not safetensors.
            reads: what it must read.

        Raises:
            InputError: the model does not exist, is no classifier with one or two labels, has no trained head, has
                heads that do not fit it, is a pickle that was not allowed, brings its own code, or reads something
                else; `max_length` leaves no room for text; or this device or model does not support the precision.
        """
        started = time.perf_counter()
        if precision == "int8" and device.type != "cpu":
            raise InputError("router.precision int8 is for CPUs, and this is a GPU: leave it out, or give bfloat16")
        path = models.resolve(name)
        check_reads(name, reads)
        heads = ensemble.read(Path(path))
        model, tokenizer, last_layer, note = loading.load(
            name, path, device, precision, heads is not None, allow_pickle
        )
        limits = [loading.token_limit(model, tokenizer), max_length, _trained_length(path)]
        if heads is not None and heads.width != (width := 2 * model.config.get_text_config().hidden_size):
            raise InputError(
                f"the heads of the router '{name}' read {heads.width} numbers and its encoder gives {width}: they "
                "are of another encoder, so train the router again"
            )
        length = min(limit for limit in limits if limit is not None)
        router = cls(model, tokenizer, device, length, None if heads is None else heads.to(device), reads)
        router._last_layer, router.name = last_layer, name
        router.notes += [] if note is None else [note]
        if router.max_length <= (special := tokenizer.num_special_tokens_to_add()):
            raise InputError(
                f"max_length {router.max_length} leaves the router '{name}' no room for text: "
                f"its {special} special tokens count too, so give more than {special}"
            )
        router.share(sharing(router, name, "int8" if precision == "int8" else str(model.dtype).removeprefix("torch.")))
        router.load_seconds = time.perf_counter() - started
        return router

    def probabilities(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Scores of one padded batch: float32, shape [rows]; batch and scores are on the router's device.

        NaN where the model gives no number.
        """
        logits: torch.Tensor = self.model(**batch).logits
        logits = logits.float()
        scores = logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1]
        return scores.masked_fill(~logits.isfinite().all(dim=1), torch.nan)

    def embedded(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `probabilities`, and the prompts' embeddings from the same pass.

        An embedding is the mean of the encoder's last hidden states over the prompt's tokens: float32, shape
        [rows, dimensions]. None if the model does not expose these states.
        """
        outputs: list[Any] = []

        def keep(_module: object, _inputs: object, output: Any) -> None:
            outputs.append(output if isinstance(output, torch.Tensor) else output[0])

        hook = self.model.base_model.register_forward_hook(keep)
        if self._last_layer is not None:
            self._last_layer.all_tokens = True
        try:
            probabilities = self.probabilities(batch)
        finally:
            hook.remove()
            if self._last_layer is not None:
                self._last_layer.all_tokens = False
        hidden = outputs[0] if len(outputs) == 1 else None
        if not isinstance(hidden, torch.Tensor) or hidden.ndim != 3 or hidden.shape[:2] != batch["input_ids"].shape:
            return probabilities, None
        return probabilities, mean_of_tokens(hidden, batch.get("attention_mask"))

    def pooled(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """What heads read of one padded batch, by the encoder's last hidden states.

        Returns:
            float32 [rows, 2 × hidden]: their mean over the prompt's tokens, then those of its first token.
        """
        hidden: torch.Tensor = self.model(**batch).last_hidden_state
        mask = batch.get("attention_mask")
        first = hidden[:, 0]
        if mask is not None and self.tokenizer.padding_side == "left":
            first = hidden[torch.arange(len(hidden), device=hidden.device), mask.argmax(dim=1)]
        return torch.cat([mean_of_tokens(hidden, mask), first.float()], dim=1)

    def share(self, name: str) -> None:
        """Let only texts share a batch that do not change each other's scores, with a note if some do.

        Args:
            name: a `Sharing`; one that is faster than the router's changes nothing.
        """
        kept = next((one for one in SHARINGS if one == name), self.sharing)
        if SHARINGS.index(kept) <= SHARINGS.index(self.sharing):
            return
        self.sharing = kept
        texts = "texts are scored one at a time" if kept == "singly" else "only texts of equal length share a batch"
        self.notes.append(f"the router '{self.name}' scores otherwise next to other texts: {texts}, which is slower")

    def count_unscored(self, scores: NDArray[np.float32]) -> None:
        """Raises:
        InputError: 20 texts in a row have no score.
        """
        known = np.flatnonzero(~np.isnan(scores))
        self._unscored = len(scores) - 1 - int(known[-1]) if len(known) else self._unscored + len(scores)
        if self._unscored >= _HOPELESS:
            why = "it gives NaN or infinite numbers" if self.raised is None else f"it raised {self.raised}"
            raise InputError(
                f"the router '{self.name}' has no score for {self._unscored} texts in a row: {why}; set "
                "router.precision to float32, or train it again"
            )

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
        devices.free_memory(self.device)


def _trained_length(path: str) -> int | None:
    file = Path(path) / ROUTER_FILE
    values = read_json(file)
    if values is None:
        return None
    try:
        return int(values["max_length"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{file}' is damaged: it should be JSON with a whole number max_length") from error
