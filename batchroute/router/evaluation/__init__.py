"""Evaluating a router: quality drop by cost advantage, with confidence intervals."""
