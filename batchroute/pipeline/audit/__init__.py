"""The audit: the large model also answers a sample of the small model's rows, and a metric measures the difference."""
