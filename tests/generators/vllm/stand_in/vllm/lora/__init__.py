"""As `vllm.lora`."""
