"""Calibration: which threshold keeps within which quality drop."""
