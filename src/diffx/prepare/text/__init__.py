"""Captions beside images, and their encodings in shards."""
