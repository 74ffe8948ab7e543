"""Claim (i) of the debate, counted: what the autoencoder of Stable Diffusion costs beside DiT-XL/2, at 256 pixels.

FLOPs are counted on meta tensors, twice the multiplications, attention included; nothing is loaded. The autoencoder's
sizes are those of stabilityai/sd-vae-ft-mse.

    python -m benchmarks.autoencoder
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from diffx.assemble.model import build_model
from diffx.config.compose import compose_config

NFE = 250  # network forwards of a published sample; twice as many with guidance
EPOCHS = 80  # 400K steps of 256 images


def count(run: Callable[[], object]) -> float:
    """TFLOP of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e12


def make_autoencoder() -> Any:
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip


def main() -> None:
    coder = make_autoencoder()
    image, latents = torch.empty(1, 3, 256, 256, device="meta"), torch.empty(1, 4, 32, 32, device="meta")
    encode, decode = count(lambda: coder.encode(image)), count(lambda: coder.decode(latents))
    backbone = build_model(compose_config(["+experiment=sit_xl"]), "meta").backbone
    t, y = torch.empty(1, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
    forward = count(lambda: backbone(latents, t, y))
    size, training = sum(one.numel() for one in coder.parameters()) / 1e6, 3 * forward
    print(f"autoencoder: {size:.0f}M parameters; {encode:.2f} TFLOP to encode an image, {decode:.2f} to decode one")
    print(f"DiT-XL/2: {forward:.3f} TFLOP forward, {training:.3f} a training image")
    once, each = encode / (training * EPOCHS), encode / training
    print(f"encoding once: {once:.1%} of {EPOCHS} epochs of training; encoding in every step adds {each:.0%} to it")
    many, one = decode / (decode + NFE * forward), decode / (decode + forward)
    print(f"decoding: {many:.1%} of a sample with {NFE} forwards, {one:.0%} of one with a single forward")


if __name__ == "__main__":
    main()
