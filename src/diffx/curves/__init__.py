"""Curves of runs: read from disk without trusting them, seeds pooled into methods, one table of points, and what lies
between two evaluations."""
