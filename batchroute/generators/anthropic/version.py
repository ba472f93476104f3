"""Which version of Anthropic's API is asked, and what it does not take.

Made from the types of the package `anthropic` 2.14.0, which is generated from the API's description, and from the pages
"Versions" and "Messages" of platform.claude.com. Version 2026-10-21 took `temperature`, `top_p` and `top_k` away; older
models take them when they are asked by version 2023-06-01.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchroute.generators.backend import Home

if TYPE_CHECKING:
    from batchroute.generators.settings import ModelSpec

HOME = Home("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY")
HEADER = "anthropic-version"
_VERSION, _WITHOUT_SAMPLING = "2026-10-21", "2026-10-21"


def version_of(spec: ModelSpec) -> str:
    """The version of the API: the one that the job file's `headers` name, else the newest that is known here."""
    given = {name.lower(): value for name, value in (spec.headers or {}).items()}
    return given.get(HEADER) or _VERSION


def takes_sampling(spec: ModelSpec) -> bool:
    """Whether requests may say how the model samples. Versions are dates."""
    return version_of(spec) < _WITHOUT_SAMPLING


def problem(spec: ModelSpec) -> str | None:
    """The setting that Anthropic's API has no field for; None: there is none."""
    sampling = spec.generation
    asked = {"temperature": not sampling.greedy, "top_p": sampling.top_p < 1.0, "top_k": sampling.top_k > 0}
    for name in (name for name, is_asked in asked.items() if is_asked and not takes_sampling(spec)):
        return (
            f"generation.{name}: Anthropic's API takes none since version {_WITHOUT_SAMPLING}: leave it out, or ask an "
            "older model by headers: {anthropic-version: '2023-06-01'}"
        )
    if "seed" in sampling.model_fields_set:
        return "generation.seed: Anthropic's API has no seed: leave it out"
    if spec.length_key is not None:
        return "length_key: Anthropic's API calls the limit max_tokens and nothing else: leave it out"
    if spec.response_format is not None and spec.response_format["type"] == "json_object":
        return "response_format: Anthropic's API takes a json_schema, and no json_object: give the schema"
    return None
