"""The same router in ONNX Runtime or OpenVINO, in an interpreter that need not have torch.

    PYTHON tests/benchmarks/router_in_engines.py ENGINE MODEL.onnx INPUTS.npz THREADS REPEATS

`router_scoring --against` starts it: with its own interpreter, or with that of `--python` where the engine needs an
environment of its own. It scores batches that are ready, so that tokenising costs it nothing, and prints one line of
JSON: the seconds of each repetition, the first of which is left out, and the logits.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Batch = dict[str, Any]
ENGINES = {"onnxruntime": "float32 int8", "openvino": "float32 bfloat16"}
"""The packages, and the precisions that each is measured in."""


def main() -> None:
    engine, model, inputs, threads, repeats = sys.argv[1:]
    batches = _batches(inputs)
    package = importlib.import_module(engine)
    found = {}
    for precision in ENGINES[engine].split():
        run = globals()[f"_{engine}"](package, Path(model), precision, int(threads))
        seconds, logits = [], []
        for _ in range(int(repeats) + 1):
            started = time.perf_counter()
            logits = [run(batch) for batch in batches]
            seconds.append(time.perf_counter() - started)
        found[precision] = {"seconds": seconds[1:], "logits": np.concatenate(logits).astype(float).tolist()}
    print(json.dumps({"version": package.__version__, "found": found}))


def _batches(file: str) -> list[Batch]:
    """Arrays `BATCH/INPUT`, as `router_scoring` saves them."""
    arrays = np.load(file)
    batches: dict[str, Batch] = {}
    for name in arrays.files:
        number, _, tensor = name.partition("/")
        batches.setdefault(number, {})[tensor] = arrays[name]
    return [batches[number] for number in sorted(batches, key=int)]


def _onnxruntime(package: Any, model: Path, precision: str, threads: int) -> Callable[[Batch], Any]:
    if precision == "int8":
        quantization = importlib.import_module("onnxruntime.quantization")
        smaller = model.with_name("int8.onnx")
        quantization.quantize_dynamic(model, smaller)
        model = smaller
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    session = package.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, batch)[0]


def _openvino(package: Any, model: Path, precision: str, threads: int) -> Callable[[Batch], Any]:
    kind = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = package.Core().compile_model(str(model), "CPU", settings)
    return lambda batch: compiled(batch)[0]


if __name__ == "__main__":
    main()
