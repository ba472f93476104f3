"""What other systems read of a run: FOCUS, Prometheus metrics, a summary, notifications."""
