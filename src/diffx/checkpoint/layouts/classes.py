"""Networks that classes condition: the sizes and rules of each repository, and its layout."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffx.backbone.layers.position import Rotary
from diffx.checkpoint.layouts.layout import DDPM, EDM, F16, PIXELS, PLAIN, SIZES, VELOCITY, Layout
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

UVIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "l": {"hidden_size": 1024, "depth": 21, "num_heads": 16, "conv": True},
    "h": {"hidden_size": 1152, "depth": 29, "num_heads": 16, "conv": False},
}
JIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "b": {**SIZES["b"], "bottleneck": 128, "context_start": 4},
    "l": {**SIZES["l"], "bottleneck": 128, "context_start": 8},
    "h": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "bottleneck": 256, "context_start": 10},
}


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
JIT_RULES: tuple[Rule, ...] = (
    Prefixes(
        {
            "net.in_context_posemb": "context_pos_embed",
            "net.x_embedder.proj1.": "x_embedder.down.",
            "net.x_embedder.proj2.": "x_embedder.up.",
            "net.": "",
        }
    ),
    Changed(("context_pos_embed",), lambda w, s: w.squeeze(0), lambda w, s: w.unsqueeze(0)),
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


CLASS_LAYOUTS = {
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
    "jit": Layout(
        VELOCITY
        | {"prediction": "data", "error": "velocity", "floor": 0.05}
        | {"times": "lognormal", "mean": 0.8, "std": 0.8},
        {"context_tokens": 32},
        "JiT",
        free=("context_tokens",),
        sizes=JIT_SIZES,
        latents=PIXELS,
        rules=JIT_RULES,
        backward_time=True,
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
