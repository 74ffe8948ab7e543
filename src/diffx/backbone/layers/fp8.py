"""Products in 8-bit floats: torchao's training, for the linear layers of the blocks that multiply tokens.

Each product rounds its two factors anew, with one scale a tensor: e4m3 for tokens and weights, e5m2 for gradients
(Micikevicius et al., arXiv 2209.05433). Weights stay float32 parameters of the same names, so checkpoints, averages and
the optimizer see no difference; all else is as under bf16-mixed.
"""

from dataclasses import replace

import torch
from torch import nn

from diffx.errors import DiffxError

STEP = 16  # the tensor cores' rows and columns come in sixteens
ADA = (8, 9)  # the first compute capability with such tensor cores
OF_SAMPLES = (
    "adaLN",
    "modulation",
)  # layers on one vector a sample: next to no work, and their errors reach all tokens


def check_fp8(device: torch.device) -> None:
    """Raises DiffxError where there is no package for it, or no GPU that has such products."""
    try:
        import torchao.float8  # noqa: F401
    except ImportError:
        raise DiffxError(
            "trainer.precision=fp8 needs the package torchao; type pip install 'diffx-train[fp8]', or "
            "trainer.precision=bf16-mixed."
        ) from None
    if device.type != "cuda":
        raise DiffxError("trainer.precision=fp8 is for GPUs; type trainer.precision=bf16-mixed or 32-true.")
    if torch.cuda.get_device_capability(device) < ADA:
        raise DiffxError(
            f"trainer.precision=fp8 needs a GPU of Ada's or Hopper's generation or later, and this is "
            f"{torch.cuda.get_device_name(device)}; type trainer.precision=bf16-mixed."
        )


def multiply_in_fp8(blocks: nn.Module) -> list[str]:
    """Make the linear layers on tokens of a backbone's blocks multiply in 8 bits, in place; the names of those layers.

    Left as they are: layers on one vector a sample, and layers whose width is no multiple of 16. A device without
    such products (the CPU, in tests) rounds as they do and multiplies in its own arithmetic.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    chosen = [name for name, layer in blocks.named_modules() if _is_on_tokens(name, layer)]
    wanted = {id(blocks.get_submodule(name)) for name in chosen}
    emulate = next(blocks.parameters()).device.type != "cuda"
    config = replace(Float8LinearConfig.from_recipe_name("tensorwise"), emulate=emulate, pad_inner_dim=True)
    convert_to_float8_training(blocks, config=config, module_filter_fn=lambda layer, _: id(layer) in wanted)
    return chosen


def _is_on_tokens(name: str, layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Linear) or any(part in name for part in OF_SAMPLES):
        return False
    return layer.in_features % STEP == 0 and layer.out_features % STEP == 0
