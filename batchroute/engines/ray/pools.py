"""The job file's section `ray`: the cluster, and the resources of each pool of workers."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PoolSpec(BaseModel):
    """The workers of one kind."""

    model_config = ConfigDict(extra="forbid")

    num_gpus: float | None = Field(
        default=None, ge=0, description="of each worker; unless set what its model is spread over, 0 without GPUs"
    )
    num_cpus: float = Field(default=1, ge=0, description="of each worker")
    min: int = Field(default=1, ge=1, description="workers that stay until the stage ends")
    max: int | None = Field(default=None, ge=1, description="workers; as many as the cluster has room for unless set")
    accelerator_type: str | None = Field(default=None, description="a name of Ray's, such as H100 or L4")

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class RaySpec(BaseModel):
    """The Ray cluster that `--engine ray` uses, and its pools. Not part of a run's identity."""

    model_config = ConfigDict(extra="forbid")

    address: str | None = Field(
        default=None,
        description="of a cluster, or auto for the one that this machine is part of; RAY_ADDRESS, or else a new one "
        "on this machine",
    )
    router: PoolSpec = Field(default_factory=PoolSpec, description="also measures an audit")
    small: PoolSpec = Field(default_factory=PoolSpec)
    large: PoolSpec = Field(default_factory=PoolSpec)
