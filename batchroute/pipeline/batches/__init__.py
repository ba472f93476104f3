"""Provider batches: rows that are submitted tonight and answered within a provider's day."""
