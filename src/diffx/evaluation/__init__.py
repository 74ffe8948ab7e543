"""Samples of a network, their measurement, and what its blocks know."""
