"""Calibrating a router: what each threshold costs in quality, and what rows gain and cost on each model."""
