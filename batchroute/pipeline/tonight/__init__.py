"""Tonight's calibration: rows of the night that both models answer first, and what a policy may conclude from them."""
