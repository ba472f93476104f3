"""From a GGUF file to safetensors, once: GGUF weights take 20 seconds to minutes to load."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

from batchroute.models.embedded.sources import Origin

# The program ends with its parent: a conversion that nobody waits for would hold cores and gigabytes for minutes.
_PROGRAM = "from batchroute.models.embedded.convert import main; main()"


def start(origin: Origin, weights: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Convert `weights` into `folder`, in a process of its own that ends when this one does.

    Args:
        log: gets what the process prints. A file and not a pipe: nobody reads while other models download.
    """
    command = [sys.executable, "-c", _PROGRAM, str(weights), str(folder), origin.dtype, *map(str, origin.ends)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        return subprocess.Popen(command, env=offline, stdin=subprocess.PIPE, stdout=stream, stderr=stream)


def main() -> None:
    """The process that `start` starts."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    weights, folder, dtype, *ends = sys.argv[1:]
    convert(weights, folder, dtype, tuple(map(int, ends)))


def convert(weights: str, folder: str, dtype: str, ends: tuple[int, ...] = ()) -> None:
    """Write the model and the tokenizer of a GGUF file into `folder`.

    Args:
        dtype: of the safetensors, as torch names it.
        ends: the tokens that end a response, where a GGUF file, which holds one, would lose some; empty: that one.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    # transformers parses the file once each for tokenizer, configuration and weights, most of a conversion's time.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)  # type: ignore[assignment, misc]
    path = Path(weights)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    # Without `dequantize`, the model keeps a quantization config and refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
    )
    model.save_pretrained(folder)
    if ends:
        generation = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, eos_token_id=list(ends)
        )
        generation.save_pretrained(folder)


def _end_with_parent() -> None:
    # Not through sys.stdin: its lock, held here, is an error at the interpreter's end.
    os.read(0, 1)
    os._exit(1)
