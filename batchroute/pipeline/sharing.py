"""How rows share batches in a run: found when a model first loads, and kept by whoever goes on with the run."""

from __future__ import annotations

from typing import Any

from batchroute.pipeline import layout
from batchroute.storage.workdir import Workdir


def keep(work: Workdir, model: str, loaded: Any) -> None:
    """Let rows share batches as the worker that loaded the model first found it.

    Where rows change each other, their answers depend on how they share batches. So all ranks and later attempts take
    the first one's finding, or a more careful one of their own.

    Args:
        model: a side, or `router`.
        loaded: a generator or a router. With an attribute `sharing` and a method `share`, if it runs here.
    """
    here = getattr(loaded, "sharing", None)
    if here is None:
        return
    name = layout.SHARING.format(model=model)
    kept = work.read_json(name)
    if kept is None and work.read_json(layout.RUN) is not None:
        # `plan` loads models of a run that has not begun, and leaves nothing behind.
        work.put_json(name, {"rows": here})
        kept = work.read_json(name)
    if kept is not None:
        loaded.share(str(kept["rows"]))
