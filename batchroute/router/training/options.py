"""Options of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchroute.router.labels import LabelKind
from batchroute.router.reading import Reads

Method = Literal["auto", "heads", "finetune"]


class TrainOptions(BaseModel):
    """Options of a training. The paper states only the epochs; the other defaults follow its code."""

    model_config = ConfigDict(extra="forbid")

    quality_table: str = Field(description="parquet file")
    base: str = Field(description="encoder to start from: a directory, a hub id, or embedded:NAME")
    output: Path = Field(description="directory of the new router")
    label: LabelKind = "gap"
    method: Method = Field(default="auto", description="what learns: heads on the encoder, or the whole of it")
    reads: Reads = Field(default="prompt", description="what it reads: the prompt, or the small model's answer too")
    add: list[str] = Field(default=[], description="more quality tables of the pair, to learn from alone")
    epochs: int = Field(default=5, ge=1)
    patience: int = Field(default=2, ge=1, description="stop after this many epochs without a better one")
    lr: float | None = Field(default=None, gt=0, description="default: 1e-4 below 100M parameters, else 1e-5")
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=128, ge=8, description="tokens")
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps")
    validation: float = Field(default=0.1, gt=0, lt=1, description="share of prompts, unless the table has a split")
    test: float = Field(default=0.2, ge=0, lt=1, description="share of prompts left aside, for calibrate and evaluate")
    seed: int = Field(default=0, ge=0)
    overwrite: bool = False
    allow_pickle: bool = Field(default=False, description="load a base whose weights are no safetensors")

    @model_validator(mode="after")
    def _readers_are_heads(self) -> Self:
        if self.reads == "answer" and self.method == "finetune":
            raise ValueError("a reader of answers is heads on an encoder: leave --method and its options out")
        return self
