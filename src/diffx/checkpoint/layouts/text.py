"""Text to image, as diffusers' pipelines keep their transformers: Stable Diffusion 3's and PixArt's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffx.checkpoint.layouts.layout import DDPM, SIZES, VELOCITY, Layout
from diffx.checkpoint.rules import Changed, Infix, Joined, Prefixes, Rule, Settings


def _rows_joined(parts: tuple[str, ...], whole: str) -> tuple[Rule, ...]:
    return tuple(Joined(tuple(f"{part}.{kind}" for part in parts), f"{whole}.{kind}") for kind in ("weight", "bias"))


def _halves_swapped(rows: Tensor, settings: Settings) -> Tensor:
    """Scale before shift, where a layer makes these two and no more."""
    return rows if len(rows) != 2 * settings["hidden_size"] else torch.cat(rows.chunk(2)[::-1])


SWAPPED = ("adaLN_modulation.1.weight", "adaLN_modulation.1.bias")
TIME_MLP = {"timestep_embedder.linear_1.": "t_embedder.mlp.0.", "timestep_embedder.linear_2.": "t_embedder.mlp.2."}
MMDIT_RULES: tuple[Rule, ...] = (
    Infix(".norm1.linear.", ".adaLN_modulation.1."),
    Infix(".norm1_context.linear.", ".text_adaLN_modulation.1."),
    Prefixes(
        {
            "pos_embed.proj.": "x_embedder.proj.",
            "pos_embed.pos_embed": "pos_embed",
            "context_embedder.": "y_embedder.",
            **{f"time_text_embed.{theirs}": ours for theirs, ours in TIME_MLP.items()},
            "time_text_embed.text_embedder.linear_1.": "pooled_embedder.0.",
            "time_text_embed.text_embedder.linear_2.": "pooled_embedder.2.",
            "norm_out.linear.": "final_layer.adaLN_modulation.1.",
            "proj_out.": "final_layer.linear.",
            "transformer_blocks.": "blocks.",
        }
    ),
    Infix(".ff.net.0.proj.", ".mlp.fc1."),
    Infix(".ff.net.2.", ".mlp.fc2."),
    Infix(".ff_context.net.0.proj.", ".text_mlp.fc1."),
    Infix(".ff_context.net.2.", ".text_mlp.fc2."),
    *(
        rule
        for name in ("attn", "attn2")
        for rule in _rows_joined((f".{name}.to_q", f".{name}.to_k", f".{name}.to_v"), f".{name}.qkv")
    ),
    *_rows_joined((".attn.add_q_proj", ".attn.add_k_proj", ".attn.add_v_proj"), ".text_attn.qkv"),
    Infix(".attn.to_out.0.", ".attn.proj."),
    Infix(".attn2.to_out.0.", ".attn2.proj."),
    Infix(".attn.to_add_out.", ".text_attn.proj."),
    Infix(".attn.norm_added_q.", ".text_attn.q_norm."),
    Infix(".attn.norm_added_k.", ".text_attn.k_norm."),
    *(Infix(f".{name}.norm_{part}.", f".{name}.{part}_norm.") for name in ("attn", "attn2") for part in "qk"),
    Changed(SWAPPED, _halves_swapped, _halves_swapped),
    Changed(
        ("pos_embed",),
        lambda w, s: w.unflatten(1, (s["position_size"], s["position_size"])),
        lambda w, s: w.flatten(1, 2),
    ),
)
PIXART_RULES: tuple[Rule, ...] = (
    Infix(".scale_shift_table", ".adaLN_modulation.scale_shift_table"),
    Prefixes(
        {
            "pos_embed.proj.": "x_embedder.proj.",
            **{f"adaln_single.emb.{theirs}": ours for theirs, ours in TIME_MLP.items()},
            "adaln_single.linear.": "shared_modulation.linear.",
            "caption_projection.linear_1.": "y_embedder.0.",
            "caption_projection.linear_2.": "y_embedder.2.",
            "scale_shift_table": "final_layer.adaLN_modulation.scale_shift_table",
            "proj_out.": "final_layer.linear.",
            "transformer_blocks.": "blocks.",
        }
    ),
    Changed(
        ("scale_shift_table",),
        lambda w, s: w.flatten(),
        lambda w, s: w.unflatten(0, (-1, s["hidden_size"])),
    ),
    *_rows_joined((".attn1.to_q", ".attn1.to_k", ".attn1.to_v"), ".attn.qkv"),
    Infix(".attn1.to_out.0.", ".attn.proj."),
    *_rows_joined((".attn2.to_k", ".attn2.to_v"), ".cross_attn.kv"),
    Infix(".attn2.to_q.", ".cross_attn.q."),
    Infix(".attn2.to_out.0.", ".cross_attn.proj."),
    Infix(".ff.net.0.proj.", ".mlp.fc1."),
    Infix(".ff.net.2.", ".mlp.fc2."),
)
SD3_TEXT = {"text_length": 154, "text_channels": 4096, "pooled_channels": 2048}  # CLIP's 77 tokens and 77 of T5
SD3_MEDIUM = {"hidden_size": 1536, "depth": 24, "num_heads": 24, "qk_norm": False, "dual_blocks": 0}
SD3_SIZES: Mapping[str, Mapping[str, Any]] = {
    "medium": {**SD3_MEDIUM, "position_size": 192, "position_spacing": 64 / 192},
    "medium35": {**SD3_MEDIUM, "qk_norm": True, "dual_blocks": 13, "position_size": 384, "position_spacing": 64 / 384},
    "large35": {"hidden_size": 2432, "depth": 38, "num_heads": 38, "qk_norm": True, "dual_blocks": 0}
    | {"position_size": 192, "position_spacing": 64 / 192},
}

TEXT_LAYOUTS = {
    "sd3": Layout(
        VELOCITY | {"times": "lognormal", "shift": 3.0},
        {"mask_text": False, "times": "interval"},
        "MMDiT",
        sizes=SD3_SIZES,
        latents={"input_size": 128, "in_channels": 16, **SD3_TEXT},
        rules=MMDIT_RULES,
    ),
    "pixart": Layout(
        DDPM,
        {"learn_sigma": True, "position_spacing": 1.0},
        "PixArt",
        free=("position_spacing",),
        sizes={"xl": SIZES["xl"]},
        latents={"input_size": 32, "in_channels": 4, "text_length": 120, "text_channels": 4096, "pooled_channels": 0},
        rules=PIXART_RULES,
    ),
}
