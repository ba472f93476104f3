"""Ranks: processes, on one or more machines, that share the units of a run."""
