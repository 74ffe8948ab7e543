"""How each repository lays out its weights: what its networks are in diffx, and the rules by which its files differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffx.backbone.layers.position import Rotary
from diffx.checkpoint.rules import (
    ALTERNATING_AXES,
    CHANNEL_FIRST,
    CLASS_FIRST,
    EXTRA_FIRST,
    PATCHES_AS_ROWS,
    Changed,
    Groups,
    Infix,
    Joined,
    Prefixes,
    Rule,
    Settings,
)

SIZES: Mapping[str, Mapping[str, Any]] = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
UVIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "l": {"hidden_size": 1024, "depth": 21, "num_heads": 16, "conv": True},
    "h": {"hidden_size": 1152, "depth": 29, "num_heads": 16, "conv": False},
}
PLAIN = {  # DiT's options, unless a layout says otherwise
    "learn_sigma": False,
    "position": "sincos",
    "norm": "layernorm",
    "mlp": "gelu",
    "qk_norm": False,
    "conditioning": "adaln_zero",
}
SD_VAE = {"input_size": 32, "in_channels": 4, "num_classes": 1000}
F16 = {"input_size": 16, "in_channels": 32, "num_classes": 1000}

VELOCITY = {"_target_": "diffx.objective.Interpolant", "path": "linear", "prediction": "velocity"}
DDPM = {"_target_": "diffx.objective.DDPM", "min_snr": None}
EDM = {"_target_": "diffx.objective.EDM"}


@dataclass(frozen=True)
class Layout:
    """One repository's.

    objective: what its networks are trained for, as configuration. backbone: their class in diffx.backbone. options: of
    it, beside the sizes. free: those of them that files of this layout may have otherwise. sizes: by word. latents: of
    ImageNet at 256 pixels.
    rules: in the order of reading. plugin, training_only: whose the weights are that only training uses: official
    prefix -> prefix in the plugin's state. made: official names -> tensors that diffx computes, from the settings.
    backward_time: time runs from noise (0) to data (1), as in SiT; period: the longest of the time's features.
    dead_variance: half of the output rows may be a variance that nothing uses. under_ema: the repository's own code
    looks for the weights under this key of a .pt file, and for those that only training uses.
    """

    objective: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=lambda: PLAIN)
    backbone: str = "DiT"
    free: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SIZES)
    latents: Mapping[str, int] = field(default_factory=lambda: SD_VAE)
    rules: tuple[Rule, ...] = ()
    plugin: str | None = None
    training_only: Mapping[str, str] = field(default_factory=dict)
    made: Callable[[Settings], dict[str, Tensor]] = lambda settings: {}
    backward_time: bool = False
    period: float = 10000
    dead_variance: bool = False
    under_ema: bool = False


def _rotary_tables(settings: Settings) -> dict[str, Tensor]:
    """The grid's cosines and sines (N, d), each for both channels of a pair."""
    side = settings["input_size"] // settings["patch_size"]
    tables = Rotary(side, settings["hidden_size"] // settings["num_heads"])
    parts = {"cos": tables.cos, "sin": tables.sin}
    return {f"feat_rope.freqs_{name}": part.repeat_interleave(2, dim=1).cpu() for name, part in parts.items()}


def _with_decoder(layers: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The sizes, each with so many layers of decoder."""
    return {size: {**SIZES[size], "decoder_layers": count} for size, count in layers.items()}


MDT_OPTIONS = {**PLAIN, "learn_sigma": True, "position": "learned", "relative_bias": True}
SIDE_INTERPOLATER = {"sideblocks.0.": "side_block.", "mask_token": "mask_token"}
DIT = Layout(DDPM, {**PLAIN, "learn_sigma": True})

MDT_V2_GROUPS = Groups(
    lambda s: {
        "en_inblocks": 0,
        "en_outblocks": (s["depth"] - s["decoder_layers"]) // 2,
        "de_blocks": s["depth"] - s["decoder_layers"],
    }
)
UVIT_GROUPS = Groups(
    lambda s: {"in_blocks": 0, "mid_block": s["depth"] // 2, "out_blocks": s["depth"] // 2 + 1}, single=("mid_block",)
)
UVIT_NAMES = Prefixes(
    {
        "patch_embed.": "x_embedder.",
        "label_emb.weight": "y_embedder.embedding_table.weight",
        "decoder_pred.": "linear.",
        "final_layer.": "conv.",
    }
)
MASKDIT_GROUPS = Groups(
    lambda s: {"blocks": 0, "decoder_layer": s["depth"], "decoder_blocks": s["depth"] + 1}, single=("decoder_layer",)
)
SPRINT_GROUPS = Groups(
    lambda s: {"encoder_blocks": 0, "middle_blocks": s["dense"], "decoder_blocks": s["depth"] - s["dense"]}
)
LABELS_AS_COLUMNS = Changed(("y_embedder.embedding_table.weight",), lambda w, s: w.T, lambda w, s: w.T)
ONE_NUMBER = Changed(("value_mix",), lambda w, s: w.view(1), lambda w, s: w.view(()))
CLASS_STREAM = {"cls_projectors2.": "class_embedder.0.", "wg_norm.": "class_embedder.1."}
CLASS_HEAD = {"final_layer.linear_cls.": "class_head."}
DDT_RULES: tuple[Rule, ...] = (
    Infix("adaLN_modulation.0.", "adaLN_modulation.1."),
    PATCHES_AS_ROWS,
    CHANNEL_FIRST,
    *ALTERNATING_AXES,
    Joined((".w1.weight", ".w3.weight"), ".w12.weight"),
    Infix(".mlp.w2.", ".mlp.w3."),
)
WIDE_DECODER = {"decoder_width": 2048, "decoder_depth": 2, "decoder_heads": 16}
RAE2_XL = {"hidden_size": 1440, "depth": 28, "num_heads": 20, "time_tokens": 4, "label_tokens": 8, "early_depth": 8}
RAE2_RULES: tuple[Rule, ...] = (
    Infix("adaln_modulation", "adaLN_modulation"),
    Prefixes(
        {
            "base_final_layer.norm.": "early_layer.norm_final.",
            "base_final_layer.": "early_layer.",
            "final_layer.norm.": "final_layer.norm_final.",
            "ctx_embedder.embedding_table.": "y_embedder.embedding_table.",
            "ctx_embedder.learnable_tokens": "label_tokens",
            "t_embedder.learnable_tokens": "time_tokens",
        }
    ),
    *(Joined(tuple(f".attn.{part}.{kind}" for part in "qkv"), f".attn.qkv.{kind}") for kind in ("weight", "bias")),
    *(Joined((f".mlp.w1.{kind}", f".mlp.w2.{kind}"), f".mlp.w12.{kind}") for kind in ("weight", "bias")),
)


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

LAYOUTS = {
    "dit": DIT,
    "fast-dit": DIT,
    "sit": Layout(VELOCITY, backward_time=True, dead_variance=True),
    "repa": Layout(VELOCITY, plugin="repa", training_only={"projectors.": "projectors."}, under_ema=True),
    "mdt": Layout(
        DDPM,
        {**MDT_OPTIONS, "skips": False},
        "MDTBackbone",
        sizes=_with_decoder({"s": 2, "b": 2, "l": 2, "xl": 2}),
        plugin="mdt",
        training_only=SIDE_INTERPOLATER,
    ),
    "mdtv2": Layout(
        DDPM | {"min_snr": 5},
        {**MDT_OPTIONS, "skips": True},
        "MDTBackbone",
        sizes=_with_decoder({"s": 6, "b": 4, "l": 4, "xl": 4}),
        rules=(MDT_V2_GROUPS,),
        plugin="mdt",
        training_only=SIDE_INTERPOLATER,
    ),
    "tread": Layout(EDM),
    "meanflow": Layout({"_target_": "diffx.objective.MeanFlow"}, {**PLAIN, "two_times": True}),
    "lightningdit": Layout(
        VELOCITY | {"times": "lognormal"},
        {**PLAIN, "position": "sincos_rope", "norm": "scaled_rmsnorm", "mlp": "swiglu"},
        free=("qk_norm",),
        latents=F16,
        made=_rotary_tables,
        backward_time=True,
    ),
    "ddt": Layout(
        VELOCITY | {"times": "lognormal"},
        {},
        "DDT",
        sizes=_with_decoder({"b": 4, "l": 4, "xl": 6}),
        rules=DDT_RULES,
        plugin="repa",
        training_only={"diffusion_trainer.proj.": "projectors.0."},
        backward_time=True,
        period=10,
    ),
    "improved-dit": Layout(
        VELOCITY | {"times": "lognormal"},
        {},
        "DDT",
        sizes=_with_decoder({"b": 0, "l": 0, "xl": 0}),
        rules=DDT_RULES,
        backward_time=True,
        period=10,
    ),
    "dit-dh": Layout(
        VELOCITY | {"times": "lognormal", "shift": (768 * 16 * 16 / 4096) ** 0.5},
        WIDE_DECODER,
        "DiTDH",
        free=tuple(WIDE_DECODER),
        sizes={"xl": SIZES["xl"], "s": SIZES["s"]},
        latents={"input_size": 16, "in_channels": 768, "num_classes": 1000},
    ),
    "rae2": Layout(
        VELOCITY | {"prediction": "data", "error": "velocity", "floor": 0.05, "times": "lognormal", "shift": 8.0},
        WIDE_DECODER,
        "RAE2",
        free=tuple(WIDE_DECODER),
        sizes={"xl": RAE2_XL},
        latents={"input_size": 16, "in_channels": 1024, "num_classes": 1000},
        rules=RAE2_RULES,
        plugin="repa",
        training_only={"repa_projector.": "projectors.0."},
    ),
    "uvit": Layout(
        {"_target_": "diffx.objective.DDPM", "betas": "sqrt_linear", "variance": "fixed"},
        {"learn_sigma": False, "times": "steps"},
        "UViT",
        sizes=UVIT_SIZES,
        rules=(UVIT_GROUPS, EXTRA_FIRST, UVIT_NAMES),
    ),
    "reg": Layout(
        VELOCITY,
        {**PLAIN, "class_dim": 768},
        "REGBackbone",
        free=("qk_norm", "class_dim"),
        rules=(Prefixes({**CLASS_STREAM, **CLASS_HEAD}), CLASS_FIRST),
        plugin="reg",
        under_ema=True,
        training_only={"projectors.0.": "projector."},
    ),
    "sr-dit": Layout(
        VELOCITY,
        {**PLAIN, "norm": "rmsnorm", "qk_norm": True, "class_dim": 768, "dense": 2, "rotary": True}
        | {"value_residual": True},
        "SRDiT",
        free=("class_dim", "dense"),
        latents=F16,
        rules=(
            Prefixes({**CLASS_STREAM, **CLASS_HEAD, "fusion_proj.": "fuse."}),
            Infix("v1_lambda", "value_mix"),
            ONE_NUMBER,
            CLASS_FIRST,
        ),
        plugin="reg",
        training_only={"projectors.0.": "projector."},
        made=_rotary_tables,
    ),
    "sprint": Layout(
        VELOCITY | {"times": "lognormal"},
        {**PLAIN, "position": "rope", "qk_norm": True, "dense": 2},
        "SprintBackbone",
        free=("dense",),
        rules=(SPRINT_GROUPS, Prefixes({"renoise_linear.": "fuse."}), PATCHES_AS_ROWS, CHANNEL_FIRST),
        plugin="repa",
        training_only={"projectors.": "projectors.0."},
    ),
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
    "maskdit": Layout(
        EDM,
        {**PLAIN, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16},
        "MaskDiTBackbone",
        free=("decoder_width", "decoder_depth", "decoder_heads"),
        rules=(Prefixes({"model.": ""}), MASKDIT_GROUPS, LABELS_AS_COLUMNS),
        plugin="maskdit",
        training_only={"model.mask_token": "mask_token"},
    ),
}
