"""The audit: a sample of the easy rows is answered by the large model too, to measure what the small one loses."""
