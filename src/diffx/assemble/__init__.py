"""From settings to objects: the model, its services, FLOPs, the plan's table, the run's record."""
