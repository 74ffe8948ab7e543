"""Samples of a class-conditional DiT that predicts velocities, by flow matching. Needs diffusers alone.

from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
latents = pipeline(class_labels=[207, 360], guidance_scale=1.5).images
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class FlowDiTPipeline(DiffusionPipeline):
    """vae: decodes the latents; without one, latents are what comes out."""

    transformer: Any
    scheduler: Any
    vae: Any
    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ("vae",)

    def __init__(self, transformer: Any, scheduler: Any, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)  # type: ignore[attr-defined]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        latents: Tensor | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        """latents: the noise to begin with (B, C, H, W); None draws it. output_type: "latent", or of diffusers."""
        config, device = self.transformer.config, self._execution_device  # type: ignore[attr-defined]
        labels = torch.tensor(list(class_labels), device=device)
        shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
        x = randn_tensor(shape, generator, device) if latents is None else latents.to(device)
        nothing = torch.full_like(labels, config.num_embeds_ada_norm)
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)
        for t in self.progress_bar(self.scheduler.timesteps):  # type: ignore[attr-defined]
            velocity = self._velocity(x, t, labels)
            if guidance_scale != 1:
                away = self._velocity(x, t, nothing)
                velocity = away + guidance_scale * (velocity - away)
            x = self.scheduler.step(velocity, t, x).prev_sample
        if self.vae is None or output_type == "latent":
            return ImagePipelineOutput(images=x)
        raw = x / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        images = VaeImageProcessor().postprocess(self.vae.decode(raw).sample, output_type)
        return ImagePipelineOutput(images=images)

    def _velocity(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.transformer(x, timestep=t.expand(len(x)), class_labels=labels).sample
