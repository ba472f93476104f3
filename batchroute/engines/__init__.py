"""Engines carry units of work out: in this process, over several processes, over a cluster."""
