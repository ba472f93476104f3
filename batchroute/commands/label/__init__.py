"""`batchroute label`: a quality table from the answers of two models."""
