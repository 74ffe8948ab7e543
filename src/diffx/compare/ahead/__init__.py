"""What lies beyond the runs: what they will measure at a larger budget, as an interval and never as a promise."""
