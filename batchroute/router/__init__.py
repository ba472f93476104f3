"""The router of the Hybrid LLM paper: the model, its scores, its labels, its training, and the policy over its scores."""
