"""What the models cost: prices, usage and the report."""
