"""Runs as a comparison sees them: read from disk without trusting them, seeds pooled into methods, metrics by name."""
