"""Latents that others have encoded, in the layouts that they publish: read into shards, whole and named."""
