"""Models behind an OpenAI-compatible endpoint, asked request by request or in provider batches."""
