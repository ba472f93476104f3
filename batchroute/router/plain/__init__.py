"""Routers that torch and tokenizers alone can load: BERT's architecture, with one of its usual tokenizers.

A small router is ready before transformers is imported, which takes three times as long as torch. Whatever is unusual
about a folder is left to transformers, which also says what is wrong with one that is damaged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchroute.errors import BatchrouteError
from batchroute.router.plain import bert, tokenizer

if TYPE_CHECKING:
    import torch

    from batchroute.router.plain.bert import BertClassifier, BertEncoder
    from batchroute.router.plain.tokenizer import PlainTokenizer


def load(
    folder: Path, headless: bool, dtype: torch.dtype
) -> tuple[BertClassifier | BertEncoder, PlainTokenizer] | None:
    """The model and the tokenizer of a router, ready to score on the CPU; None for those that transformers must load.

    Args:
        headless: it is an encoder, whose states others read, and no classifier.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reads = tokenizer.read(folder)
        model = bert.read(folder, config, headless, dtype) if reads is not None else None
    except BatchrouteError:
        # The run ends, such as by a signal that came in the meantime.
        raise
    except Exception:
        # Of a damaged file, transformers' own error is the better one.
        return None
    return None if reads is None or model is None else (model, reads)
