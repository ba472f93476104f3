"""The tokenizer of a `tokenizer.json`, used as transformers' tokenizers are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

_NO_LIMIT = 10**30
"""What a tokenizer of transformers gives for no limit."""

_AS_SAVED = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that take `tokenizer.json` as it is."""

_REBUILT = ("BertTokenizer", "BertTokenizerFast")
"""Classes that take the vocabulary from it and make the rest by their own settings."""

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Settings of which any value but null, false or nothing changes the tokens.
_UNUSUAL = (
    "auto_map", "add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens", "added_tokens_decoder",
    "additional_special_tokens", "extra_special_tokens", "model_input_names", "from_slow", "fix_mistral_regex",
)  # fmt: skip
# Files of earlier formats, which may name more tokens.
_OTHER_FILES = ("added_tokens.json", "special_tokens_map.json")


class PlainTokenizer:
    """Attributes and methods that a router needs of a tokenizer, by the names that transformers gives them.

    Attributes:
        model_input_names: of the lists that it makes; `attention_mask` is made by `pad` alone.
        model_max_length: tokens that it may make of a text by its settings.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, Any], model_input_names: Sequence[str]) -> None:
        # The file may hold the length that a training padded and cut its texts to.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.model_input_names = list(model_input_names)
        self.model_max_length = int(settings.get("model_max_length") or _NO_LIMIT)
        self.padding_side: str = settings.get("padding_side") or "right"
        self.truncation_side: str = settings.get("truncation_side") or "right"
        self.pad_token_id: int = tokenizer.token_to_id(settings["pad_token"])  # type: ignore[assignment]
        self._pads: dict[str, int] = {
            "input_ids": self.pad_token_id,
            "token_type_ids": settings.get("pad_token_type_id") or 0,
        }

    def __call__(
        self,
        texts: str | list[str],
        *,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_attention_mask: bool = False,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """The tokens of each text, or of the one text, in lists by the names of the model's inputs.

        Args:
            max_length: tokens of a text at most, special tokens included, if `truncation`.
        """
        if truncation and max_length is not None:
            self._tokenizer.enable_truncation(max_length, direction=self.truncation_side)
        some = [texts] if isinstance(texts, str) else texts
        encoded = self._tokenizer.encode_batch_fast(some, add_special_tokens=add_special_tokens)
        if truncation:
            self._tokenizer.no_truncation()
        columns: dict[str, Any] = {"input_ids": [one.ids for one in encoded]}
        if "token_type_ids" in self.model_input_names:
            columns["token_type_ids"] = [one.type_ids for one in encoded]
        return {name: column[0] for name, column in columns.items()} if isinstance(texts, str) else columns

    def pad(
        self,
        features: Mapping[str, Sequence[Sequence[int]]],
        *,
        return_attention_mask: bool = True,
        return_tensors: str = "pt",
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The lists as int64 tensors of shape [rows, longest row], and the mask of what is no padding."""
        longest = max(len(row) for row in features["input_ids"])
        longest += -longest % (pad_to_multiple_of or 1)

        def tensor(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
            fills = [[pad] * (longest - len(row)) for row in rows]
            both = zip(fills, rows, strict=True) if self.padding_side == "left" else zip(rows, fills, strict=True)
            return torch.from_numpy(np.array([[*before, *after] for before, after in both], np.int64))

        padded = {name: tensor(rows, self._pads[name]) for name, rows in features.items()}
        return {**padded, "attention_mask": tensor([[1] * len(row) for row in features["input_ids"]], 0)}

    def num_special_tokens_to_add(self) -> int:
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))


def read(folder: Path) -> PlainTokenizer | None:
    """The tokenizer in a folder; None if transformers would make another one of the same file, or might.

    Raises:
        OSError, ValueError, KeyError: a file is missing or damaged.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if any(settings.get(name) for name in _UNUSUAL) or any((folder / name).exists() for name in _OTHER_FILES):
        return None
    saved = json.loads(text)
    named = {name: settings[name] for name in _NAMED if settings.get(name) is not None}
    special = {one["content"]: one for one in saved["added_tokens"] if one["special"]}
    # Others would become tokens by being named.
    if "pad_token" not in named or not all(isinstance(one, str) and one in special for one in named.values()):
        return None
    kind = settings["tokenizer_class"]
    if kind in _AS_SAVED:
        inputs = ["input_ids", "attention_mask"]
    elif kind in _REBUILT and _is_berts(saved, settings, named, special):
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        return None
    return PlainTokenizer(Tokenizer.from_str(text), settings, inputs)


def _is_berts(
    saved: Mapping[str, Any], settings: Mapping[str, Any], named: Mapping[str, str], special: Mapping[str, Any]
) -> bool:
    """Whether the file holds what `BertTokenizer` would make by these settings."""
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    start, end = named.get("cls_token", "[CLS]"), named.get("sep_token", "[SEP]")
    model, template = saved["model"], saved["post_processor"]
    return (
        len(saved["added_tokens"]) == len(special) == len(set(named.values()))
        and not any(one[flag] for one in special.values() for flag in flags)
        and {name: value for name, value in model.items() if name != "vocab"}
        == {
            "type": "WordPiece",
            "unk_token": named.get("unk_token", "[UNK]"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        }
        and saved["normalizer"]
        == {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        }
        and saved["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and template["type"] == "TemplateProcessing"
        and template["single"]
        == [
            {"SpecialToken": {"id": start, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": end, "type_id": 0}},
        ]
        and all(template["special_tokens"][name]["ids"] == [special[name]["id"]] for name in (start, end))
    )
