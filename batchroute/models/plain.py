"""A model's configuration as the plain JSON that it is, for checks that must not take the seconds of transformers."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlainConfiguration:
    """The few settings that a check reads, by the names that transformers gives them."""

    architectures: list[str]
    num_labels: int


def plain_configuration(folder: Path, generator: bool = False) -> PlainConfiguration | None:
    """What `config.json` tells; None where it takes transformers to say whether the model can be loaded.

    That is the case for a hub id, for damaged files, for a model that brings code, and for one of a kind that the
    installed transformers may not know.

    Args:
        generator: also None where it takes transformers to say whether the model writes text.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, architectures = config["model_type"], config["architectures"]
        labels = config.get("id2label") or range(config.get("num_labels", 2))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if "auto_map" in config or not isinstance(architectures, list) or not isinstance(kind, str):
        return None
    names = [str(name) for name in architectures]
    if not _entries(kind, "Config", "auto_mappings.py", "configuration_auto.py"):
        return None
    # Of an encoder it takes more to say whether its attention sees the tokens that follow.
    if generator and not (names and all(name.endswith("ForCausalLM") for name in names) and _is_no_encoder(kind)):
        return None
    return PlainConfiguration(names, len(labels))


def _is_no_encoder(kind: str) -> bool:
    file = "modeling_auto.py"
    return _entries(kind, "ForCausalLM", file) and not _entries(kind, "ForMaskedLM", file)


def knows_tokenizer(name: str) -> bool:
    """Whether the installed transformers has a class of tokenizers of this name; False, too, where its files do not
    tell.
    """
    return _says(re.compile(rf'"{re.escape(name.removesuffix("Fast"))}"'), "tokenization_auto.py")


def _entries(kind: str, ending: str, *files: str) -> bool:
    """Whether the installed transformers has a class with this ending for models of this type; False, too, where its
    files do not tell.
    """
    return _says(re.compile(rf'\("{re.escape(kind)}", "\w+{ending}"\)'), *files)


def _says(entry: re.Pattern[str], *files: str) -> bool:
    """Whether one of these files of the installed transformers has such an entry."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return False
    found = (Path(package.origin).parent / "models/auto" / file for file in files)
    return any(file.is_file() and entry.search(file.read_text(encoding="utf-8")) is not None for file in found)
