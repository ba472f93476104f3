"""Confidence: how far a small model's answer can be trusted, told by the answer itself."""
