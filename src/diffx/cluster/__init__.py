"""A training on many GPUs, on paper: what a step's parts take there, and what binds."""
