"""Where models come from: the hub and what is in its cache, and the embedded ones."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchroute import models
from batchroute.commands.doctor.finding import Finding, counted, note, well
from batchroute.commands.doctor.network import unreached_url
from batchroute.models import embedded
from batchroute.redaction import host

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")


@dataclass(frozen=True, slots=True)
class Located:
    """
    Attributes:
        folder: on this machine; None for a model that is not.
        whole: whether its weights are there too.
    """

    folder: Path | None
    whole: bool = False


class Hub:
    """The model hub, as this process is set to use it."""

    @property
    def offline(self) -> bool:
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    @functools.cached_property
    def unreached(self) -> str:
        """Why it cannot be reached, in words; empty when it can."""
        from huggingface_hub import constants

        return unreached_url(constants.ENDPOINT)

    def locate(self, name: str, marker: str = "config.json") -> Located:
        """Where a model is: a directory, an embedded one, or a hub id in the hub's cache.

        Args:
            marker: the file that makes a directory a model.

        Raises:
            InputError: a path or an embedded model that is not there.
        """
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        resolved = Path(models.resolve(name, adapter=marker != "config.json"))
        if resolved.is_dir():
            return Located(resolved, whole=True)
        try:
            found = try_to_load_from_cache(name, marker)
        except HFValidationError:
            found = None
        if not isinstance(found, str):
            return Located(None)
        folder = Path(found).parent
        return Located(folder, _whole(folder))


def _whole(folder: Path) -> bool:
    """Whether the weights are in a folder of the cache, all their parts."""
    indexes = [path for pattern in _INDEXES for path in folder.glob(pattern)]
    if indexes:
        parts = {part for path in indexes[:1] for part in json.loads(path.read_text())["weight_map"].values()}
        return all((folder / part).exists() for part in parts)
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def hub(hub: Hub, environment: Mapping[str, str]) -> Finding:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    held = counted(len(list(cache.glob("models--*"))), "model")
    words = f"{held} in {cache}" + (", by HF_HOME" if environment.get("HF_HOME") else "")
    if hub.offline:
        return well("hub", f"off by HF_HUB_OFFLINE; {words}")
    if hub.unreached:
        return note(
            "hub",
            f"{host(constants.ENDPOINT)} cannot be reached ({hub.unreached}); {words}",
            "set HF_HUB_OFFLINE=1 so that nothing waits for it, or mend the network, HF_ENDPOINT or the proxy",
        )
    return well("hub", f"{host(constants.ENDPOINT)} answers; {words}")


def embedded_models() -> Iterator[Finding]:
    missing = [name for name in embedded.SOURCES if not models.embedded_dir(name).is_dir()]
    if missing:
        remedy = "run `batchroute models fetch demo` where you want them; nothing else needs them"
        yield note("embedded", f"{', '.join(missing)}: not fetched", remedy)
    else:
        yield well("embedded", f"all {len(embedded.SOURCES)} in {models.cache_dir() / 'models'}")
