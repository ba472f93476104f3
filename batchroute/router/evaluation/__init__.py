"""Evaluation: the paper's figures of a router, on rows that it was not trained on."""
