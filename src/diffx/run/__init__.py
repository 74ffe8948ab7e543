"""A run on disk, on the screen and in W&B: its folder, its name, where its numbers come from, how far it is."""
