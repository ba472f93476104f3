"""What `paper.sh` has left in a folder, and how `page.md` writes numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

MODELS = ("small", "middle", "large")
PAIRS = ("small-gap", "medium-gap", "large-gap")
SHARES = ("10", "20", "40")


@dataclass(frozen=True)
class Figures:
    """The folder, the metric that the routers learned, and a second one of the same answers."""

    folder: Path
    metric: str
    second: str

    @cached_property
    def labelled(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "labelled.parquet")

    @cached_property
    def noted(self) -> dict[str, str]:
        metadata = pq.read_schema(self.folder / "labelled.parquet").metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}

    @property
    def sampling(self) -> str:
        """How the answers were drawn, in a sentence; empty if the table does not say."""
        noted = json.loads(self.noted.get("sampling", "{}"))
        if not noted:
            return ""
        heat, longest = (noted[key]["small"] for key in ("temperature", "max_new_tokens"))
        return f"{noted['samples']} answers of each model, at temperature {heat}, of at most {longest} tokens."

    @property
    def answers(self) -> int:
        """Of each model, all samples of all rows."""
        return int(self.labelled["small_quality"].list.len().sum())

    def work(self, model: str) -> tuple[float, float, float]:
        """Tokens read, tokens written and seconds, of all answers of a model. Each sample counts its prompt."""
        written = self.labelled[f"{model}_output_tokens"]
        read = float((self.labelled[f"{model}_input_tokens"] * written.list.len()).sum())
        total = float(written.list.sum().sum())
        return read, total, (read + total) * float(self.noted[f"{model}_seconds_per_token"])

    def seconds(self, model: str) -> float:
        """Of one answer, in the batches of `label`."""
        return self.work(model)[2] / self.answers

    def router_seconds(self, single: bool = False) -> float:
        latency = self.evaluation("large-gap")["routers"][-1]["latency"]
        return float(latency["single_prompt_ms"] / 1000 if single else 1 / latency["prompts_per_second"])

    def evaluation(self, pair: str, metric: str | None = None) -> dict[str, Any]:
        path = self.folder / pair / f"by-{metric or self.metric}" / "evaluation.json"
        tree: dict[str, Any] = json.loads(path.read_text())
        return tree

    def rules(self, pair: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads((self.folder / pair / "rules.txt").read_text().splitlines()[-1])
        return tree

    def transfer(self, pair: str) -> list[str]:
        return (self.folder / pair / "transfer.txt").read_text().splitlines()


def number(value: Any, digits: int = 1) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(estimate: dict[str, Any], digits: int = 1) -> str:
    return f"{number(estimate['low'], digits)} to {number(estimate['high'], digits)}"


def cell(estimate: dict[str, Any], digits: int = 1) -> str:
    """`1.2 (0.8 to 1.6)`; `n/a` if the figure is not defined."""
    if estimate["value"] is None:
        return "n/a"
    return f"{number(estimate['value'], digits)} ({interval(estimate, digits)})"


def drop_of(large: NDArray[np.float64], routed: NDArray[np.float64]) -> dict[str, Any]:
    """Quality drop in percent, with its 95 % interval by 2,000 resamples of the rows; both of shape [rows]."""
    drawn = np.random.default_rng(0).integers(0, len(large), size=(2000, len(large)))
    drawn = np.vstack([np.arange(len(large)), drawn])
    alone, kept = large[drawn].mean(axis=1), routed[drawn].mean(axis=1)
    drops = 100 * (alone - kept) / np.abs(alone)
    low, high = np.quantile(drops[1:], (0.025, 0.975))
    return {"value": float(drops[0]), "low": float(low), "high": float(high)}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join("" if text is None else str(text) for text in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"
