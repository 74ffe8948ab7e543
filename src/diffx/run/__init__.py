"""A run on disk and in W&B: its folder, its name, where its numbers come from, its sink."""
