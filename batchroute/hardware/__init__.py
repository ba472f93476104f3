"""The machine: its accelerators, and the limits of its container."""
