"""The job file: its keys, and how it is read."""
