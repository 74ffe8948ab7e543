"""DiT as diffusers has it: DiTTransformer2DModel, which DiTPipeline takes.

diffusers computes the time features with frequencies 10000^(-i/127), DiT (and diffx) with 10000^(-i/128), and no
weights make up for that. So a model differs a little from DiT as diffusers loads it; after `use_official_frequencies`
its outputs are equal.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffx.checkpoint.architecture import check_layout
from diffx.checkpoint.folder import Imported
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.tensors import refuse_existing, write_tensors
from diffx.store.whole_file import write_text

CONFIG, TENSORS = "config.json", "diffusion_pytorch_model.safetensors"
OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
EMBEDDERS = {  # diffusers keeps a copy of both embedders in every block
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
INNER = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def write_transformer(model: Imported, folder: Path) -> list[Path]:
    """Write config.json and the weights of a learned-variance DiT into `folder`; returns their paths.

    Raises:
        DiffxError: the backbone has options that DiTTransformer2DModel has not, was not trained for ddpm, or the folder
            has a model already.
    """
    check_layout(model.backbone, model.settings, model.objective, LAYOUTS["dit"], "diffusers")
    for name in (CONFIG, TENSORS):
        refuse_existing(folder / name)
    write_tensors(diffusers_tensors(model.weights.backbone, model.settings["depth"]), folder / TENSORS)
    write_text(folder / CONFIG, json.dumps(diffusers_config(model.settings), indent=2) + "\n")
    return [folder / CONFIG, folder / TENSORS]


def diffusers_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a DiTTransformer2DModel."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": settings["hidden_size"] // settings["num_heads"],
        "in_channels": settings["in_channels"],
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": settings["num_heads"],
        "num_embeds_ada_norm": settings["num_classes"],
        "num_layers": settings["depth"],
        "out_channels": settings["in_channels"] * (2 if settings.get("learn_sigma") else 1),
        "patch_size": settings["patch_size"],
        "sample_size": settings["input_size"],
    }


def diffusers_tensors(backbone: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """A DiT's state under diffusers' names; the fixed position table is not in it, since diffusers computes it."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in backbone.items():
        module, kind = key.rpartition(".")[::2]
        if module in OUTER:
            tensors[f"{OUTER[module]}.{kind}"] = tensor
        elif module in EMBEDDERS:
            for block in range(depth):
                tensors[f"transformer_blocks.{block}.norm1.emb.{EMBEDDERS[module]}.{kind}"] = tensor.clone()
        elif module.startswith("blocks."):
            _, index, inner = module.split(".", 2)
            tensors |= _block_tensors(f"transformer_blocks.{index}", inner, kind, tensor)
    return tensors


def _block_tensors(block: str, inner: str, kind: str, tensor: Tensor) -> dict[str, Tensor]:
    if inner == "attn.qkv":
        parts = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True)
        return {f"{block}.attn1.{name}.{kind}": part.clone() for name, part in parts}
    return {f"{block}.{INNER[inner]}.{kind}": tensor}


def use_official_frequencies(transformer: nn.Module) -> nn.Module:
    """Give a loaded DiTTransformer2DModel the time frequencies of DiT, in place, so that outputs are DiT's own."""
    for block in transformer.transformer_blocks:  # type: ignore[union-attr]
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return transformer
