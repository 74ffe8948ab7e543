"""Procedural scenes of one to three shapes, their pictures and the captions that describe them."""

from diffx.data.captions.pictures import Pictures

__all__ = ["Pictures"]
