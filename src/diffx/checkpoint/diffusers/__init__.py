"""Models as folders of Hugging Face diffusers: a DiT for DiTPipeline, an interpolant with its own pipeline."""

from diffx.checkpoint.diffusers.flow import write_flow
from diffx.checkpoint.diffusers.transformer import use_official_frequencies, write_transformer

__all__ = ["use_official_frequencies", "write_flow", "write_transformer"]
