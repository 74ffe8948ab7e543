"""REPA-E: the autoencoder trained with the network, through the alignment loss (Leng et al. 2025, arXiv 2504.10483)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import walk_blocks
from diffx.end_to_end import EndToEnd, frozen
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.pixels.values import signed, to_uint8
from diffx.planner import Plugins, View, make_plan
from diffx.plugin import DRAWN, Batch, Plugin
from diffx.step import Draws, PluginPassage, fed
from diffx.streams import Streams
from diffx_plugins.repa_e.latent_norm import LatentNorm
from diffx_plugins.repa_e.losses import LPIPS, PatchDiscriminator, divergence, hinge, load_lpips

ALONE = ("span", "attends", "wraps")


@dataclass(frozen=True)
class Encoded:
    """How a batch's latents came. image, decoded: (B, 3, R, R). mean, std: of the posterior. seen: the drawn latent by
    the running statistics, with a gradient. y: the condition before dropping."""

    image: Tensor
    decoded: Tensor
    mean: Tensor
    std: Tensor
    seen: Tensor
    y: Any


class REPAE(EndToEnd):
    """The loss of plugin `plugin` (REPA's alignment) trains the encoder too, through the network, which is frozen for
    that and fed the times and the noise of its own pass; the denoising loss does not reach the autoencoder:

        total += align · L_plugin(frozen network, z) + reconstruction · |x̂ - x| + perceptual · LPIPS
                 + adversarial · (-D(x̂)) + kl · KL  [+ hinge loss of the discriminator D, on x and x̂ without a gradient]

    Pass 1 of the authors' step, here computed second, stops after the last block that the plugin reads, has no dropped
    labels, and normalises z by running statistics; the network's own pass by the batch's (LatentNorm). All gradients
    are of the weights before the step: the authors' discriminator and network, stepped after the autoencoder, use its
    outputs of before its step, so that theirs are too.

    plugin: a plugin of the run that only reads, and whose targets come from the image. perceptual: LPIPS, whose VGG-16
    has to be there; 0 leaves it out. kl: of the sum over a latent. adversarial: constant, from the first step on.
    discriminator_width, discriminator_layers: of PatchDiscriminator. discriminator: the authors' file, of which it is a
    continuation there; None begins with a fresh one.
    momentum: of the running statistics. clip: of the norms of autoencoder and discriminator, each.
    """

    def __init__(
        self,
        plugin: str = "repa",
        align: float = 1.5,
        reconstruction: float = 1.0,
        perceptual: float = 1.0,
        adversarial: float = 0.1,
        kl: float = 1e-6,
        momentum: float = 0.1,
        discriminator_width: int = 64,
        discriminator_layers: int = 3,
        discriminator: str | None = None,
        clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.plugin, self.clip, self.momentum = plugin, clip, momentum
        self.weights = {
            "align": align,
            "reconstruction": reconstruction,
            "perceptual": perceptual,
            "adversarial": adversarial,
            "kl": kl,
        }
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise DiffxError(f"end_to_end.{name}={weight} is a weight; type a number of at least 0.")
        self.width, self.layers = discriminator_width, discriminator_layers
        if discriminator_width < 1 or discriminator_layers < 1:
            raise DiffxError(
                f"end_to_end.discriminator_width={discriminator_width} and discriminator_layers={discriminator_layers} "
                "have to be at least 1; type 64 and 3."
            )
        self.discriminator_file = None if discriminator is None else Path(discriminator).expanduser()
        self._lpips: tuple[LPIPS, ...] = ()  # in a tuple: it is in no checkpoint

    def hold(self, network: Any, shift: list[float], scale: list[float]) -> None:
        if not network.posterior:
            raise DiffxError(
                "end_to_end=repa_e trains a variational autoencoder, and the one of this data has no posterior; take "
                "data of another, such as autoencoder=sd_vae_mse or va_vae."
            )
        self.autoencoder: Any = copy.deepcopy(network).requires_grad_(True)
        self.norm = LatentNorm(network.channels, self.momentum)
        self.norm.begin(shift, scale)

    def setup(self, backbone: Backbone, plugins: Plugins) -> None:
        self.view = _view_of(self.plugin, backbone, plugins)
        if self.weights["adversarial"]:
            self.discriminator = PatchDiscriminator(3, self.width, self.layers)
        if self.weights["perceptual"]:
            self._lpips = (LPIPS(),)

    def load(self) -> None:
        self._lpips = tuple(load_lpips() for _ in self._lpips)
        if self.discriminator_file is not None and self.weights["adversarial"]:
            self.discriminator.load(self.discriminator_file)

    def encode(self, batch: Batch, streams: Streams) -> tuple[Batch, Encoded]:
        image = signed(batch["image"])
        mean, std = self.autoencoder.encode(image).float().chunk(2, dim=1)
        rng = streams.own("posterior")
        z = mean + std * torch.randn(mean.shape, generator=rng, device=rng.device).to(mean)
        seen = self.norm.by_running(z)  # before the statistics move
        latents = self.norm.by_batch(z.detach())
        decoded = self.autoencoder.decode(z)
        rest = {key: value for key, value in batch.items() if key != "x_std"}
        return rest | {"x": latents}, Encoded(image, decoded, mean, std, seen, batch["y"])

    def losses(
        self, encoded: Encoded, draws: Draws, backbone: Backbone, plugins: Plugins, objective: Objective
    ) -> dict[str, Tensor]:
        image, decoded = encoded.image, encoded.decoded.float()
        terms = {
            "align": self.alignment(encoded, draws, backbone, plugins[self.plugin], objective),
            "reconstruction": F.l1_loss(decoded, image),
            "kl": divergence(encoded.mean, encoded.std),
        }
        for lpips in self._lpips:
            terms["perceptual"] = lpips.to(image.device)(decoded, image).mean()
        if self.weights["adversarial"]:
            with frozen(self.discriminator):
                terms["adversarial"] = -self.discriminator(decoded).float().mean()
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        if self.weights["adversarial"]:
            real, made = (self.discriminator(x).float() for x in (image, decoded.detach()))
            terms["discriminator"] = hinge(real, made)
            total = total + terms["discriminator"]
        return {f"autoencoder/{name}": term for name, term in terms.items()} | {"total": total}

    def alignment(
        self, encoded: Encoded, draws: Draws, backbone: Backbone, plugin: Plugin, objective: Objective
    ) -> Tensor:
        """The plugin's loss on the network as it is, with a gradient in the latents alone."""
        passage = PluginPassage(self.view, {self.plugin: plugin}, draws.aux)
        noise = draws.noise[self.view.name]
        with frozen(backbone, plugin):
            x_t, t = fed(objective, backbone.side, encoded.seen, noise, draws.t)
            walk_blocks(backbone, x_t, t, encoded.y, passage, until=max(plugin.reads))
            loss = plugin.loss(passage.seen[self.plugin], x_t, draws.aux[self.plugin])
        assert isinstance(loss, Tensor)
        return loss

    def follow(self, bad: Tensor, decay: float) -> None:
        self.norm.follow(bad, decay)

    @torch.no_grad()
    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        self.autoencoder.to(x.device)
        raw = self.norm.to(x.device).undone(x)
        return torch.cat([to_uint8(self.autoencoder.decode(part).float(), rounding) for part in raw.split(16)])

    def decoder_state(self) -> dict[str, Tensor]:
        kept = {"autoencoder": self.autoencoder, "norm": self.norm}
        return {f"{name}.{key}": tensor for name, part in kept.items() for key, tensor in part.state_dict().items()}

    def load_decoder_state(self, state: Mapping[str, Tensor]) -> None:
        try:
            self.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise DiffxError(
                "The run's autoencoder.safetensors is of another autoencoder than the data's; give it the data that it "
                "was trained with."
            ) from error


def _view_of(name: str, backbone: Backbone, plugins: Plugins) -> View:
    """What the pass for the encoder walks by: the plugin alone. Raises DiffxError where that cannot be."""
    if name not in plugins:
        raise DiffxError(
            f"end_to_end=repa_e trains the encoder through the loss of plugins.{name}, which plugins= has not chosen; "
            f"type plugins=[{name}]."
        )
    plugin = plugins[name]
    changes = [what for what in ALONE if getattr(plugin, what)]
    changes += [what for what in ("retime", "couple", "visible") if plugin.implements(what)]
    drawn = [need for need in plugin.needs if need in DRAWN or need.partition("/")[0] in ("ema", "autoencoder")]
    if changes or drawn or not plugin.reads or plugin.view != "main" or list(plugin.initial_weights) != [""]:
        raise DiffxError(
            f"end_to_end.plugin={name} has to be a plugin that only reads the network's tokens and compares them with "
            "what the image alone decides; type end_to_end.plugin=repa."
        )
    if plugin.stop is not None:
        raise DiffxError(
            f"plugins.{name}.stop={plugin.stop} ends the loss that end_to_end=repa_e trains the encoder by; type "
            f"plugins.{name}.stop=null."
        )
    others = [
        other
        for other, one in plugins.items()
        if one.streams or one.implements("retime") or any(need.startswith("autoencoder/") for need in one.needs)
    ]
    if others:
        raise DiffxError(
            f"end_to_end=repa_e trains an image's latent under one time for a sample, and plugins.{others[0]} brings "
            "another stream, times for each token, or features of the frozen autoencoder; leave it out."
        )
    (view,) = make_plan(backbone, {name: plugin}, set(plugin.needs)).views
    return view
