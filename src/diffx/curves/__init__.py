"""Curves of runs: read from disk without trusting them, seeds pooled into methods, one table of points, what lies
between two evaluations, and what several seeds say together."""
