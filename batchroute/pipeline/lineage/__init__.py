"""Lineage of a run: an event when it begins and one when it ends, in the form of OpenLineage."""
