"""What was found out about a model, kept in the cache folder: the next process that loads it need not find it again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib.metadata import version

from batchroute.models import cache_dir

# Another number forgets what earlier versions of the checks have found.
_FORMAT = 1


def remembered(kind: str, model: Mapping[str, object], find: Callable[[], str], known: Collection[str]) -> str:
    """What `find` returns, or returned before for the same model and the same versions of torch and transformers.

    A cache folder that cannot be written or holds damaged files costs time alone.

    Args:
        kind: of what is found: the name of a folder.
        model: all that the result depends on, a digest of the model's files among it.
        known: the values that `find` may return; others in the cache are ignored.
    """
    versions = {name: version(name) for name in ("torch", "transformers")}
    tree = json.dumps({"format": _FORMAT, **versions, **model}, sort_keys=True, default=str)
    file = cache_dir() / kind / f"{hashlib.sha256(tree.encode()).hexdigest()[:32]}.json"
    try:
        value = json.loads(file.read_text())["found"]
        if value in known:
            return str(value)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = find()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole: another process reads all of it or nothing.
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".json")
        with os.fdopen(handle, "w") as stream:
            stream.write(json.dumps({"found": found}))
        os.replace(temporary, file)
    return found
