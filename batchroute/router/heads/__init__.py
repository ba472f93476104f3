"""Routers of heads: a frozen encoder, and an ensemble of small predictors that read its pooled states."""
