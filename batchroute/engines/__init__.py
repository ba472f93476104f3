"""Engines run units of work: in this process, on several ranks, or on a Ray cluster."""
