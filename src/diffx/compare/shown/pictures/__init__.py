"""Pictures of a study: the curves, sweeps, and what lies beyond the runs."""
