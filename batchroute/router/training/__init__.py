"""Training a router on a quality table."""
