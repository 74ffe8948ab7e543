"""Layers that the backbones share: embeddings, positions, attention, MLPs, modulation, and the block made of them."""
