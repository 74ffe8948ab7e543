"""Training: the module, the loop around it, the clock, the guard, and how it is spread over devices."""
