"""Small jobs over real files, with a tiny real router and the echo backend unless a test says otherwise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from batchroute.config import job as spec
from batchroute.config import loading
from batchroute.errors import StoppedError
from batchroute.pipeline import run as job
from batchroute.pipeline.commit import Outcome
from batchroute.progress import NoProgress, PlainProgress
from batchroute.router.calibration.calibrate import calibrate
from batchroute.router.calibration.points import Calibration
from tests.support.pictures import undrawn_pictures
from tests.support.tiny_heads import tiny_reader
from tests.support.tiny_models import tiny_router

WORDS = ("apple", "river", "stone", "number", "glass", "answer", "sentence", "French", "twelve", "quick", "fox")


def prompts(rows: int, start: int = 0) -> list[str]:
    """Different prompts of different lengths."""
    return [
        f"{WORDS[i % 11]} {i} " + " ".join(WORDS[(i * k) % 11] for k in range(i % 17))
        for i in range(start, start + rows)
    ]


def table(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"row-{i}" for i in range(rows)],
            "prompt": prompts(rows),
            "team": [("search", "support", None)[i % 3] for i in range(rows)],
        },
        schema={"id": pl.String, "prompt": pl.String, "team": pl.String},
    )


class CutProgress(NoProgress):
    """Cuts the run short where it notes these words."""

    def __init__(self, words: str) -> None:
        self._words = words

    def note(self, event: str, message: str, **fields: Any) -> None:
        if self._words in message:
            raise StoppedError("cut")


class JobFolder:
    """A folder with an input, a router and a job file."""

    def __init__(self, folder: Path, frame: pl.DataFrame | None = None, **settings: Any) -> None:
        self.folder = folder
        self.input = folder / "in.parquet"
        self.output = folder / "out"
        if frame is not None:
            frame.write_parquet(self.input, row_group_size=37)
        self.router = folder / "router"
        if not self.router.exists():
            tiny_router(self.router)
        self.settings = {
            "name": "test",
            "input": {"uri": str(self.input), "id": "id", "prompt": "prompt"},
            "output": {"uri": str(self.output)},
            "router": {"model": str(self.router), "price": {"gpu_hour": 1}},
            "policy": {"small_share": "60%"},
            "models": {
                "small": {"backend": "echo", "model": "echo-small", "price": {"input": 0.05, "output": 0.1}},
                "large": {"backend": "echo", "model": "echo-large", "price": {"input": 0.5, "output": 1.5}},
            },
            "report": {"group_by": ["team"]},
            "units": {"score": 64, "generate": 40, "merge": 64},
            **settings,
        }
        self.log = ""

    @property
    def path(self) -> str:
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        return str(path)

    def use_every_stage(self) -> None:
        """Decide after the small model, on tonight's own calibration; read, escalate, defer and audit rows."""
        tonight = {"rows": 50, "metric": "exact_match", "reference": "large"}
        # So few that some rows are deferred, whichever ones the calibration draws.
        self.settings["policy"] = {"small_share": "10%", "decide": "after", "calibrate": tonight}
        self.settings["models"]["small"] |= {
            "on_failure": "large", "escalate": {"regex": "[a-r].*"}, "generation": {"max_new_tokens": 16},
            "confidence": {"reader": str(tiny_reader(self.folder / "reader"))},
        }  # fmt: skip
        audit = {"share": "80%", "metric": {"name": "exact_match"}, "reference": "prompt"}
        self.settings["report"] = {"group_by": ["team"], "audit": audit}
        # A price by time, as measured, would weigh in which rows skip the small model.
        self.settings["router"]["price"] = {"gpu_hour": 0}

    def load(self, *overrides: str) -> spec.Job:
        return loading.load(self.path, overrides)

    def run(self, *overrides: str, **options: bool) -> Outcome:
        """Run it in this process. The pictures of its report are not drawn."""
        stream = io.StringIO()
        try:
            with undrawn_pictures():
                return job.run(self.load(*overrides), PlainProgress(stream), **options)
        finally:
            self.log = stream.getvalue()

    def answers(self) -> pl.DataFrame:
        return pl.read_parquet(self.output / "data" / "*.parquet")

    def calibrate(self, **metadata: str) -> Calibration:
        """Calibrate the router on 400 prompts where a high score means that small is as good; echo's lengths in it."""
        texts = prompts(400, start=1000)
        rng = np.random.default_rng(0)
        large = (rng.random(400) < 0.9).astype(float)
        # The first two thirds of the words of `prompts` decide how well the small model does.
        easy = np.array([number % 11 < 7 for number in range(1000, 1400)])
        small = np.where(easy, large, 0.0)
        words = [len(text.split()) for text in texts]
        rows = {"prompt": texts, "small_quality": [[q] for q in small], "large_quality": [[q] for q in large]}
        for side in ("small", "large"):
            rows |= {f"{side}_input_tokens": words, f"{side}_output_tokens": [[count] for count in words]}
            metadata.setdefault(f"{side}_seconds_per_token", "0.01")
        path = self.folder / "quality.parquet"
        pq.write_table(pa.table(rows).replace_schema_metadata(metadata), path)
        return calibrate(str(path), str(self.router), torch.device("cpu"))
