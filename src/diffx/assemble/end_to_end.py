"""The autoencoder that is trained with the network, from the settings and the data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffx.assemble.flops import Flops, count_end_to_end
from diffx.assemble.model import TrainingModel
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.data import Data
from diffx.end_to_end import EndToEnd
from diffx.errors import DiffxError, naming
from diffx.frozen.autoencoder import sketch
from diffx.store.sealed import read_sealed


def make_end_to_end(settings: Settings, model: TrainingModel, data: Data) -> EndToEnd | None:
    """As settings.end_to_end describes it, beginning with the autoencoder that made the data's latents, its losses
    initialised from settings.seed; None where it describes nothing. Batches have their images from then on.

    Raises:
        DiffxError: data that is no latents, weights that are not to be had, or plugins that do not go with it.
    """
    if settings.end_to_end is None:
        return None
    data.provide(["image"], model.backbone.side)
    space = _latent_space(data)
    component = _begun(settings, model, space.network, space.shift, space.scale)
    component.load()
    return component


def with_end_to_end(flops: Flops, component: EndToEnd, model: TrainingModel, image_size: int) -> Flops:
    """What a step costs with it."""
    added = count_end_to_end(component, model.backbone, model.plugins, model.objective, model.plan, image_size)
    return flops._replace(train=flops.train + added, autoencoder=added)


def sketch_end_to_end(settings: Settings, model: TrainingModel) -> EndToEnd:
    """Without weights, to be counted: of the autoencoder that settings name, or of embedded data."""
    if settings.autoencoder:
        with torch.device("meta"):
            network = sketch(settings.autoencoder)
            if network is not None:
                return _begun(settings, model, network, [0.0], [1.0])
    space = _latent_space(make(settings.data.source))
    return _begun(settings, model, space.network, space.shift, space.scale)


def trained_decoder(settings: Settings, weights: Path) -> Callable[..., Tensor]:
    """From x and a rounding to uint8 images, by the autoencoder that a run has trained. weights: its file.

    Raises:
        DiffxError: the file is missing, damaged, or of another autoencoder.
    """
    assert settings.end_to_end is not None
    component: EndToEnd = make(settings.end_to_end)
    space = _latent_space(make(settings.data.source))
    component.hold(space.network, space.shift, space.scale)
    component.load_decoder_state(read_sealed(weights))
    return component.eval().decode


def _begun(settings: Settings, model: TrainingModel, network: Any, shift: Any, scale: Any) -> EndToEnd:
    assert settings.end_to_end is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + 1)
        component: EndToEnd = make(settings.end_to_end)
        component.hold(network, shift, scale)
        with naming("end_to_end", "in setup()"):
            component.setup(model.backbone, model.plugins)
    return component


def _latent_space(data: Any) -> Any:
    if not hasattr(data, "latent_space"):
        raise DiffxError(
            f"end_to_end trains the autoencoder behind latents, and a {type(data).__name__} has none; type "
            "data=shapes_latent, or data=imagenet256."
        )
    return data.latent_space()
