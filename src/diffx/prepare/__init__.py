"""Preparation: images, latents and features in shards, joined by key. `python -m diffx.prepare --help`."""
