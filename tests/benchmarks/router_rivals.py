"""The router of `router_scoring` by other engines: the model as ONNX, and the batches that batchroute makes.

`pip install onnx onnxscript` beside batchroute makes the ONNX file. The engines may be in an environment of their own:

    python -m venv ENV && ENV/bin/pip install numpy onnx onnxruntime openvino
    python -m tests.benchmarks.router_scoring --rows 200 --against onnxruntime openvino --python ENV/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchroute.router.model import Router
from batchroute.router.scoring import encode, pad

Scores = NDArray[np.floating]


def by_engines(
    model: Any, router: Router, texts: Sequence[str], args: argparse.Namespace
) -> dict[str, tuple[Scores, list[float]]]:
    """Scores and seconds of other engines, which get the batches that batchroute makes, each at its own precisions."""
    if not args.against:
        return {}
    encoded = encode(router, list(texts))
    order = np.argsort(-encoded.lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = order[start : start + max(1, router.token_budget // max(1, int(encoded.lengths[order[start]])))]
        batch = pad(router, encoded, rows)
        # Left out where no row is padded; these engines want the same inputs each time.
        batches.append({**batch, "attention_mask": batch.get("attention_mask", torch.ones_like(batch["input_ids"]))})
        start += len(rows)
    found: dict[str, tuple[Scores, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _export(model, batches[-1], folder / "router.onnx")
        arrays = {
            f"{number}/{name}": part.numpy() for number, batch in enumerate(batches) for name, part in batch.items()
        }
        np.savez(folder / "inputs.npz", **arrays)
        for engine in args.against:
            files = str(folder / "router.onnx"), str(folder / "inputs.npz")
            numbers = str(torch.get_num_threads()), str(1 if args.quick else args.repeats)
            command = [args.python or sys.executable, str(Path(__file__).with_name("router_in_engines.py")), engine]
            done = subprocess.run([*command, *files, *numbers], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{engine}: {done.stderr.strip().splitlines()[-1]}")
            answer = json.loads(done.stdout.splitlines()[-1])
            for precision, figures in answer["found"].items():
                scored = np.empty(len(order))
                scored[order] = _probabilities(np.array(figures["logits"]))
                found[f"{engine} {answer['version'].split('-')[0]}, {precision}"] = scored, figures["seconds"]
    return found


def _export(model: Any, batch: dict[str, torch.Tensor], file: Path) -> None:
    """The model as ONNX, for batches of any shape. torch needs the package onnx for it."""
    names = list(batch)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(**dict(zip(names, tensors, strict=True))).logits
            return logits

    example = tuple(torch.ones(3, 7, dtype=tensor.dtype) for tensor in batch.values())
    axes = {name: {0: "rows", 1: "columns"} for name in names} | {"logits": {0: "rows"}}
    torch.onnx.export(
        Logits().eval(), example, file, input_names=names, output_names=["logits"], dynamic_axes=axes, dynamo=False
    )


def _probabilities(logits: Scores) -> Scores:
    """As the router: a sigmoid of one logit, or the softmax probability of the second of two."""
    margin = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    return np.asarray(1 / (1 + np.exp(-margin)))
