"""Kinds of prompts, a file for each family: what draws a prompt and its reference answer."""
