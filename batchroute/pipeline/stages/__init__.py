"""The stages of a run. `pipeline/run.py` has their order."""
