"""The embedded captions: pictures of scenes with the small networks that read captions, and that read pictures."""

from diffx.embedded.captions.data import Captions

__all__ = ["Captions"]
