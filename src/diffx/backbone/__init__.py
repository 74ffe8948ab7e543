"""Backbones: the plain diffusion transformer and its options."""

from diffx.backbone.dit import Block, DiT

__all__ = ["Block", "DiT"]
