"""Metrics of samples that were drawn for prompts."""
