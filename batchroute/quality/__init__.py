"""Quality metrics: how good a response is. Higher is better for all."""
