"""Backbones, one file a family, over the layers that they share."""

from diffx.backbone.ddt import DDT
from diffx.backbone.dit import DiT
from diffx.backbone.jit import JiT
from diffx.backbone.methods.maskdit import MaskDiTBackbone
from diffx.backbone.methods.mdt import MDTBackbone
from diffx.backbone.methods.reg import REGBackbone
from diffx.backbone.methods.sprint import SparseMiddle, SprintBackbone
from diffx.backbone.methods.sr_dit import SRDiT
from diffx.backbone.mmdit import MMDiT
from diffx.backbone.pixart import PixArt
from diffx.backbone.protocol import Backbone
from diffx.backbone.rae import DiTDH
from diffx.backbone.rae2 import RAE2
from diffx.backbone.text import Text, TextShape
from diffx.backbone.uvit import UViT

__all__ = [
    "DDT",
    "RAE2",
    "Backbone",
    "DiT",
    "DiTDH",
    "JiT",
    "MDTBackbone",
    "MMDiT",
    "MaskDiTBackbone",
    "PixArt",
    "REGBackbone",
    "SRDiT",
    "SparseMiddle",
    "SprintBackbone",
    "Text",
    "TextShape",
    "UViT",
]
