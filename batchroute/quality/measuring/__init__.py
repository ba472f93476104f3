"""Measuring answers with a metric: what `label` and the audit share."""
