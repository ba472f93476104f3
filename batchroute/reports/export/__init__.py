"""Reports for other systems: FOCUS, Prometheus metrics, a summary, notifications."""
