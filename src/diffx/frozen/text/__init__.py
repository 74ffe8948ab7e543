"""Frozen text encoders of others, read through transformers from local folders, one or several at once."""

from diffx.frozen.text.encoder import TextEncoder, load_text_encoder
from diffx.frozen.text.joined import JoinedEncoder, load_text_encoders, open_text_encoders

__all__ = ["JoinedEncoder", "TextEncoder", "load_text_encoder", "load_text_encoders", "open_text_encoders"]
