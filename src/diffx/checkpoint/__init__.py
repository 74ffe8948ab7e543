"""Checkpoints: diffx's own (native) and those of the official implementations, in and out."""

from diffx.checkpoint.convert import export_model, import_file
from diffx.checkpoint.folder import open_backbone

__all__ = ["export_model", "import_file", "open_backbone"]
