"""batchroute: a nightly batch job that routes each prompt to a small or a large language model."""

__version__ = "0.1.0"
