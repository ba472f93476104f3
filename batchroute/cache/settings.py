"""The section `cache` of the job file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class CacheSpec(BaseModel):
    """Where answers are kept for later runs, and for how long."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(description="a folder that jobs may share; it holds prompts' digests and answers in clear")
    days: int = Field(default=30, ge=1, le=99_999, description="answers older than this are asked for again")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="of the fsspec filesystem")

    @field_validator("uri")
    @classmethod
    def _names_a_place(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; name a folder")
        return value
