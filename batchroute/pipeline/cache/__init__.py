"""The cache in a run: its answers are recalled before a model is asked, and the run's own answers are kept in it."""
