"""Where prompts come from and where answers go."""
