"""Drift: how tonight's prompts differ from those that the router was calibrated on."""
