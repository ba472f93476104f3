"""The encoder that compares answers by meaning, for `confidence.agree: embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchroute import models
from batchroute.hardware.devices import free_memory
from batchroute.models.checkpoint import check_loaded
from batchroute.models.pooling import mean_of_tokens

if TYPE_CHECKING:
    import torch

_ROWS = 32
_LENGTH = 512


class Encoder:
    """An encoder whose embedding of a text is the mean over the tokens of its last layer, as in the metric `embedding`.

    Longer texts than 512 tokens, or than the model reads, are cut.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        """Args:
            name: a directory, a hub id or `embedded:NAME`.

        Raises:
            InputError: the model is not there, cannot be loaded, or lacks weights.
        """
        from transformers import AutoModel, AutoTokenizer

        path = models.resolve(name)
        what = f"the encoder '{name}' of confidence"
        with models.quiet_transformers(), models.loading(what, path, keys=models.NO_KEYS):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            loaded: Any = AutoModel.from_pretrained(
                path,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            model, info = loaded
            check_loaded(what, model, info, parts=True)
            self._model = model.to(device).eval()
        self._device = device
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _LENGTH
        self._length = min(_LENGTH, int(positions), int(self._tokenizer.model_max_length))

    def agreement(self, answer: str, samples: Sequence[str]) -> list[float]:
        """The cosine of each sample's embedding with the answer's; 0 where it is negative or a text is empty."""
        vectors = self._vectors(sorted({text for text in (answer, *samples) if text.strip()}))
        if answer not in vectors:
            return [float(not sample.strip()) for sample in samples]
        own = vectors[answer]
        return [max(0.0, min(1.0, float(vectors[one] @ own))) if one in vectors else 0.0 for one in samples]

    def close(self) -> None:
        del self._model
        free_memory(self._device)

    def _vectors(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Unit vectors, shape [hidden] each, by text."""
        import torch
        from torch.nn.functional import normalize

        vectors: dict[str, torch.Tensor] = {}
        for start in range(0, len(texts), _ROWS):
            batch = texts[start : start + _ROWS]
            read = self._tokenizer(
                list(batch), truncation=True, max_length=self._length, padding=True, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                hidden = self._model(input_ids=read["input_ids"], attention_mask=read["attention_mask"])
            means = mean_of_tokens(hidden.last_hidden_state, read["attention_mask"])
            vectors |= dict(zip(batch, normalize(means, dim=1).cpu(), strict=True))
        return vectors
