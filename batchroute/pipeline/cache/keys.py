"""Keys: what an answer is known by across runs: the model as it is asked, the prompt, and the seed if it samples."""

from __future__ import annotations

import functools
import hashlib
import re
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from batchroute.cache.files import Keys, pairs_of
from batchroute.config.job import JobModel, without_reader
from batchroute.endpoint import base_url
from batchroute.generators.base import row_seed
from batchroute.pipeline import layout
from batchroute.pipeline.audit.rows import Positions
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.identity import fingerprint_of, model_settings
from batchroute.pipeline.shards.answers import with_confidence
from batchroute.storage.workdir import Workdir
from batchroute.tables.prompts import DIGEST, PromptKind

# Raised when this version reads answers otherwise than those before it, so that theirs are no hits.
_FORMAT = 1
# Settings of a job's model that decide what becomes of an answer, and not what it is.
_NOT_ANSWERS = {"price", "on_failure", "escalate"}
_LONGEST_NAME = 40
_CHUNKS_IN_MEMORY = 4


def folder_of(model: JobModel, kind: PromptKind) -> str:
    """The folder of a model's answers in a cache: readable, and another one for each setting that changes answers.

    The settings are those of a run's identity, weights by their digest, and for a model behind an API its endpoint
    (without user and password), which a run's identity leaves out. The backends of one endpoint share answers.
    """
    # A reader changes no answer.
    asked = model if model.reader is None else with_confidence(without_reader(model))
    settings = {name: value for name, value in model_settings(asked).items() if name not in _NOT_ANSWERS}
    if model.record.behind_api:
        home = model.record.home(model)
        url = urlsplit(model.endpoint or (base_url(None) if home is None else home.url))
        settings["endpoint"] = f"{url.scheme}://{url.hostname}:{url.port}{url.path.rstrip('/')}"
        # An endpoint answers alike row by row and in batches, but not every backend asks it for log-probabilities.
        settings = {name: value for name, value in settings.items() if name not in ("backend", "provider")}
        settings["logprobs"] = model.logprobs
    # A text may read like the JSON of a chat, and both then have the same digest.
    settings |= {"format": _FORMAT, "text": kind == "text"}
    name = re.sub(r"[^a-z0-9.]+", "-", model.model.rstrip("/").rpartition("/")[2].lower()).strip("-.")
    return f"{name[:_LONGEST_NAME]}-{fingerprint_of(settings)[:24]}"


class RowKeys:
    """The keys of a run's rows, from the digests of prompts in its scores."""

    def __init__(self, work: Workdir, snapshot: Snapshot, seed: int | None) -> None:
        """Args:
        seed: of a model that samples; None for greedy decoding.
        """
        self._chunks, self._rows, self._seed = snapshot.chunks(), snapshot.chunk_rows, seed
        scored = work.stage(layout.SCORE)
        self._digests = functools.lru_cache(maxsize=_CHUNKS_IN_MEMORY)(
            lambda number: pairs_of(_filled(scored.read(self._chunks[number].unit, ["digest"])["digest"]))
        )

    def of(self, positions: Positions) -> Keys:
        """The keys of the rows at these positions, which are ascending and have usable prompts."""
        keys = np.empty((len(positions), 2), np.uint64)
        numbers = positions // self._rows
        for number in np.unique(numbers).tolist():
            here = numbers == number
            keys[here] = self._digests(number)[positions[here] - number * self._rows]
        return keys if self._seed is None else _seeded(keys, positions, self._seed)


def _seeded(keys: Keys, positions: Positions, seed: int) -> Keys:
    """A sampled answer depends on its row's seed too, which depends on the row's position."""
    digests = [
        hashlib.blake2b(key.tobytes(), digest_size=16, key=row_seed(seed, position).to_bytes(8, "little")).digest()
        for key, position in zip(keys, positions.tolist(), strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _filled(digests: pa.ChunkedArray) -> pa.ChunkedArray:
    return digests.fill_null(pa.scalar(bytes(16), DIGEST))
