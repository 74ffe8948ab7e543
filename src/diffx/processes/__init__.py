"""Other processes and machines: children, devices, Slurm, and how tensors of all of them come together."""
