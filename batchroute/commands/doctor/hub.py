"""Where models come from: the hub, its cache, and the embedded models."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchroute import models
from batchroute.commands.doctor.finding import Finding, note, ok
from batchroute.commands.doctor.network import unreached_url
from batchroute.models import embedded
from batchroute.redaction import host
from batchroute.words import plural

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")


@dataclass(frozen=True, slots=True)
class Located:
    """
    Attributes:
        folder: None if the model is not on this machine.
        whole: whether the folder has all weights.
    """

    folder: Path | None
    whole: bool = False


class Hub:
    """The model hub, with the settings of this process."""

    @property
    def offline(self) -> bool:
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    @functools.cached_property
    def unreached(self) -> str:
        """Why the hub cannot be reached; empty if it can."""
        from huggingface_hub import constants

        return unreached_url(constants.ENDPOINT)

    def locate(self, name: str, marker: str = "config.json") -> Located:
        """Find a model: a directory, an embedded model, or a hub id in the hub's cache.

        Args:
            marker: the file that makes a directory a model.

        Raises:
            InputError: the path or the embedded model does not exist.
        """
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        resolved = Path(models.resolve(name, adapter=marker != "config.json"))
        if resolved.is_dir():
            return Located(resolved, whole=True)
        try:
            cached = try_to_load_from_cache(name, marker)
        except HFValidationError:
            cached = None
        if not isinstance(cached, str):
            return Located(None)
        folder = Path(cached).parent
        return Located(folder, _whole(folder))


def _whole(folder: Path) -> bool:
    """Whether a folder of the cache has all parts of the weights."""
    indexes = [path for pattern in _INDEXES for path in folder.glob(pattern)]
    if indexes:
        parts = {part for path in indexes[:1] for part in json.loads(path.read_text())["weight_map"].values()}
        return all((folder / part).exists() for part in parts)
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def hub(hub: Hub, environment: Mapping[str, str]) -> Finding:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    held = plural(len(list(cache.glob("models--*"))), "model")
    words = f"{held} in {cache}" + (", by HF_HOME" if environment.get("HF_HOME") else "")
    if hub.offline:
        return ok("hub", f"off by HF_HUB_OFFLINE; {words}")
    if hub.unreached:
        return note(
            "hub",
            f"{host(constants.ENDPOINT)} cannot be reached ({hub.unreached}); {words}",
            "set HF_HUB_OFFLINE=1 so that nothing waits for it, or fix the network, HF_ENDPOINT or the proxy",
        )
    return ok("hub", f"{host(constants.ENDPOINT)} answers; {words}")


def embedded_models() -> Iterator[Finding]:
    here = {name for name in embedded.SOURCES if models.embedded_dir(name).is_dir()}
    missing = [name for name in embedded.BUNDLES["demo"] if name not in here]
    if missing:
        remedy = "run `batchroute models fetch demo` where you want them; nothing else needs them"
        yield note("embedded", f"{', '.join(missing)}: not fetched", remedy)
    else:
        count = f"all {len(here)}" if len(here) == len(embedded.SOURCES) else f"{len(here)} of {len(embedded.SOURCES)}"
        yield ok("embedded", f"{count} in {models.cache_dir() / 'models'}")
