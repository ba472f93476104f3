"""Models in a vLLM engine, which runs in a process of its own."""
