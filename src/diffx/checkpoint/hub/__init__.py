"""A run or an imported model on the Hugging Face Hub: pushed with a model card, pulled into a folder."""

from diffx.checkpoint.hub.share import pull, push

__all__ = ["pull", "push"]
