"""What each block of a trained backbone knows: classes, by a linear probe, and an encoder's view, by CKNNA."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffx.assemble.model import build_model
from diffx.assemble.services import encoder_names, make_encoder
from diffx.backbone import Backbone
from diffx.backbone.text import blank_condition
from diffx.checkpoint.native import load_backbone
from diffx.config.protocol import precision_of
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.data import Data
from diffx.data.batches import permutation
from diffx.errors import DiffxError
from diffx.features.cknna import NEIGHBOURS, cknna
from diffx.features.linear_probe import linear_probe
from diffx.frozen.encoder import check_grid, encoder_spec
from diffx.objective import Objective
from diffx.pixels.values import signed
from diffx.planner import make_view
from diffx.plugin import Plugin
from diffx.processes.arithmetic import arithmetic
from diffx.processes.devices import pick_device
from diffx.step import walk_with_plugins

BATCH = 128
LAST = 1e4  # beyond any objective's times
HELD_OUT, UNSEEN = "held-out images", "training images that the probe has not seen"


def probe_blocks(
    settings: Settings, weights: Path, times: list[float], encoder: str | None, count: int
) -> dict[str, Any]:
    """Linear-probe accuracy and CKNNA of every block at every noise level, as plain data.

    encoder: of CKNNA; None: the one that the run was aligned to, or else the data's.

    Blocks are run as in sampling: no mask, no route. They get the null label, so that no class reaches them but through
    the image.

    Raises:
        DiffxError: no weights, an encoder that does not fit or has none, too few images, a level outside (0, 1).
    """
    if wrong := [t for t in times if not 0 < t < 1]:
        raise DiffxError(
            f"--t {wrong[0]:g} is no noise level; type numbers between 0 (data) and 1 (noise), as in --t 0.5."
        )
    if settings.data.text:
        raise DiffxError(
            f"A probe asks blocks for classes, and data={settings.data.name} has captions; probe a run on classes."
        )
    if settings.end_to_end:
        raise DiffxError("This run's latents are of an autoencoder of its own, which a probe lacks; probe another.")
    model, device = build_model(settings), pick_device(settings.trainer.accelerator)
    if len(model.backbone.streams) > 1:
        beside = ", ".join(name for name in model.backbone.streams if name != "image")
        raise DiffxError(f"This backbone denoises {beside} beside the image, which a probe has not; probe another run.")
    encoder = encoder or next(iter(encoder_names(model.plan.needs)), settings.data.encoder)
    load_backbone(model.backbone, weights)
    backbone = model.backbone.to(device).eval()
    fit, test, what = probed_images(settings, count, encoder, backbone.side, device)
    blocks = []
    precision = precision_of(settings)
    for t in times:
        with arithmetic(precision, device):
            known, unseen = (block_outputs(backbone, model.objective, part.x, t, device) for part in (fit, test))
        for depth, (a, b) in enumerate(zip(known, unseen, strict=True), start=1):
            accuracy = linear_probe(a, fit.y, b, test.y)
            blocks.append({"t": t, "depth": depth, "linear_probe": accuracy, "cknna": cknna(b, test.features)})
    return {
        "ema_decay": settings.ema_decay,
        "precision": precision,
        "encoder": encoder,
        "encoder_linear_probe": linear_probe(fit.features, fit.y, test.features, test.y),
        "images": {"fit": len(fit.y), "test": len(test.y), "tested_on": what},
        "neighbours": NEIGHBOURS,
        "reads": {name: list(plugin.reads) for name, plugin in model.plugins.items() if plugin.reads},
        "blocks": blocks,
    }


@dataclass(frozen=True)
class Probed:
    """Images to probe on: x (N, C, H, W) without noise, labels y (N,), the encoder's mean token (N, D)."""

    x: Tensor
    y: Tensor
    features: Tensor


def probed_images(
    settings: Settings, count: int, encoder: str, side: int, device: torch.device
) -> tuple[Probed, Probed, str]:
    """At most `count` training images to fit on, as many to test on, and what the latter are.

    They are the data's held-out images where those have labels and are pixels, else training images; the diffusion
    model has seen them then, but not the probe.
    """
    check_grid(encoder_spec(encoder), encoder, settings.data.image_size, side)
    data: Data = make(settings.data.source)
    need = f"features/{encoder}"
    encode = make_encoder(encoder, data, side, device) if data.provide([need], side) else None

    def seen(batches: Iterable[dict[str, Tensor]]) -> Probed:
        found = []
        for batch in batches:
            tokens = batch[need] if encode is None else encode(batch["image"])
            found.append((batch["x"], batch["y"], tokens.float().mean(1).cpu()))
        x, y, features = map(torch.cat, zip(*found, strict=True))
        return Probed(x, y, features)

    order = permutation(len(data), seed=0, epoch=0)
    has_held_out = settings.data.decoder == "pixels" and hasattr(data, "reference_labels")
    count = count if has_held_out else min(count, len(data) // 2)
    if count <= NEIGHBOURS:
        raise DiffxError(f"{count} images are too few to probe with; type -n 10000.")
    fit = seen(data.batch(part) for part in order[:count].split(BATCH))
    if has_held_out:
        return fit, seen(_held_out(data, count)), HELD_OUT
    return fit, seen(data.batch(part) for part in order[count : 2 * count].split(BATCH)), UNSEEN


def _held_out(data: Any, count: int) -> Iterator[dict[str, Tensor]]:
    images, labels = data.reference()[:count], data.reference_labels()[:count]
    for image, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        yield {"x": signed(image), "y": y, "image": image}


@torch.no_grad()
def block_outputs(backbone: Backbone, objective: Objective, x: Tensor, t: float, device: torch.device) -> list[Tensor]:
    """The mean token (N, D) after each block for images x (N, C, H, W) at noise level t, on the CPU. The noise is the
    same each time."""
    rng, everywhere = torch.Generator().manual_seed(0), Plugin()
    everywhere.reads = tuple(range(1, backbone.wide_blocks + 1))
    view = make_view("probe", backbone, {"probe": everywhere})
    time = time_at(objective, t)
    outputs: list[list[Tensor]] = [[] for _ in everywhere.reads]
    for clean in x.split(BATCH):
        noise = torch.randn(clean.shape, generator=rng)
        times = torch.full((len(clean),), time, device=device)
        x_in, t_in = objective.inputs(objective.noised(clean.to(device), noise.to(device), times), times)
        with device:
            nothing = backbone.null_condition(blank_condition(backbone, len(clean)))
        _, seen = walk_with_plugins(backbone, view, {"probe": everywhere}, x_in, t_in, nothing, {"probe": {}})
        for depth, kept in enumerate(outputs, start=1):
            kept.append(seen["probe"][depth].x[:, : backbone.grid_tokens].float().mean(1).cpu())
    return [torch.cat(kept) for kept in outputs]


def time_at(objective: Objective, t: float) -> float:
    """The objective's own time that lies at t between data (0) and noise (1)."""
    low, high = 0.0, LAST
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if objective.position(middle) < t else (low, middle)
    return round(high, 6)
