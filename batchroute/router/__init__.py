"""The router of the Hybrid LLM paper: its model, scores, labels and training, and the policy over its scores."""
