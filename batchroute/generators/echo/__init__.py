"""The backend `echo`: answers with the prompt, for dry runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchroute.generators.backend import Backend
from batchroute.generators.backend_settings import BACKEND_SETTINGS

if TYPE_CHECKING:
    from batchroute.generators.base import Generator
    from batchroute.generators.settings import ModelSpec


def _load(spec: ModelSpec, device: object, gpus: object) -> Generator:
    from batchroute.generators.echo.generator import EchoGenerator

    return EchoGenerator(spec)


# A dry run keeps the identity that the replaced backend's settings give it.
_RESULTS = {"dtype", "quantization", "adapter", "extra_body", "tokenizer"}

BACKENDS = (
    Backend(
        name="echo",
        settings=BACKEND_SETTINGS,
        speed=BACKEND_SETTINGS - _RESULTS,
        any_settings=True,
        logprobs=True,
        samples=True,
        check=lambda spec: spec.model,
        load=_load,
    ),
)
