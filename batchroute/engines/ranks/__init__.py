"""Ranks: several processes, on one machine or more, that share the units of a run."""
