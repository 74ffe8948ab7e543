"""One evaluation: draw a set of samples under a protocol and measure it. A protocol is all that moves an FID but the
model; it is hashed and stored with every number."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffx import ranks
from diffx.backbone import DiT
from diffx.build import make
from diffx.errors import DiffxError
from diffx.images import check_rounding
from diffx.logger import Sink
from diffx.objective import Objective
from diffx.picture import save_grid
from diffx.run import RunDir, short_hash
from diffx.sampler import Field, SampleNoise
from diffx.sampler.guidance import AnyGuidance
from diffx.step import Streams

if TYPE_CHECKING:
    from diffx.module import DiffusionModule
    from diffx.parts import Parts

LABELS = ("balanced", "random")
SHOWN = 100  # samples in the picture of an evaluation


def protocol(config: DictConfig, data_identity: str, metrics_identity: str) -> dict[str, Any]:
    """All that moves a metric and is not the model, as plain data."""
    sampler = OmegaConf.to_container(config.sampler)
    return {
        "labels": config.eval.labels,
        "sampler": sampler,
        "guidance": OmegaConf.to_container(config.guidance),
        "decoder": config.data.decoder,
        "rounding": config.eval.get("rounding", "nearest"),
        "ema_decay": config.ema_decay,
        "samples": config.eval.samples,
        "seed": config.eval.seed,
        "features": metrics_identity,
        "reference": data_identity,
    }


@dataclass(frozen=True)
class SampleSettings:
    """How samples are made: labels "balanced" (class i mod classes for sample i) or "random", `seed`, batches."""

    labels: str
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise DiffxError(f"eval.labels={self.labels} is not known; type eval.labels=balanced or random.")
        if self.batch_size < 1:
            raise DiffxError(f"eval.batch_size={self.batch_size} must be at least 1; type eval.batch_size=250.")

    def of(self, index: int, classes: int) -> int:
        """The label of sample `index`."""
        if self.labels == "balanced":
            return index % classes
        rng = Streams(self.seed, index).own("label")
        return int(torch.randint(classes, (), generator=rng))


class Sampling:
    """Makes samples of a backbone: sample i depends on the seed and i alone, not on batches or devices."""

    def __init__(self, config: DictConfig, objective: Objective, label: int | None = None) -> None:
        classes = config.data.num_classes
        if label is not None and not 0 <= label < classes:
            raise DiffxError(f"label {label} is none of the {classes} classes; type a number from 0 to {classes - 1}.")
        self.label = label
        self.sampler: Callable[..., Tensor] = make(config.sampler)
        self.guidance: AnyGuidance = make(config.guidance)
        check_rounding(config.eval.get("rounding", "nearest"))
        self.settings = SampleSettings(config.eval.labels, config.eval.seed, config.eval.batch_size)
        self.objective = objective

    @torch.no_grad()
    def batches(self, backbone: DiT, indices: range, device: torch.device) -> Iterator[Tensor]:
        """Samples `indices` in float32, batch by batch: x (b, C, H, W)."""
        was_training = backbone.training
        backbone.eval()
        shape = (backbone.in_channels, backbone.input_size, backbone.input_size)
        for start in range(0, len(indices), self.settings.batch_size):
            part = indices[start : start + self.settings.batch_size]
            labels = torch.tensor([self._label(i, backbone.num_classes) for i in part], device=device)
            noise = SampleNoise(self.settings.seed, part)
            field = Field(backbone, self.objective, labels, backbone.null_label, self.guidance)
            yield self.sampler(field, noise.draw(shape).to(device), noise).float()
        backbone.train(was_training)

    def _label(self, index: int, classes: int) -> int:
        return self.settings.of(index, classes) if self.label is None else self.label


class Evaluation:
    """Samples from the EMA weights, measures them, and writes one line of the curve and one picture."""

    def __init__(self, config: DictConfig, run: RunDir, parts: "Parts") -> None:
        self.config, self.run, self.parts = config, run, parts
        self.logger = Sink(None)  # the run's is made after its folder, which everything else is checked before
        self.sampling = Sampling(config, parts.model.objective)
        self.protocol_hash = short_hash(parts.protocol)

    def __call__(self, module: "DiffusionModule", step: int) -> None:
        mine = range(ranks.rank(), self.config.eval.samples, ranks.world())
        shown: list[Tensor] = []
        values = self.parts.metrics(self._samples(module, mine, shown))
        if not ranks.is_first():
            return
        picture = self.run.path / "samples" / f"step_{step:08d}.png"
        save_grid(torch.cat(shown)[:SHOWN], picture)
        self._append(values, step)
        print(f"step {step} · " + " · ".join(f"{name} {value:.3g}" for name, value in values.items()), flush=True)
        meter = self.parts.meter
        self.logger.evaluation(values, picture, (meter.unit, meter.hours), step)

    def _samples(self, module: "DiffusionModule", indices: range, shown: list[Tensor]) -> Iterator[Tensor]:
        """This rank's samples as uint8 batches on the CPU; the first ones are kept in `shown`."""
        for x in self.sampling.batches(module.whole_ema(), indices, self.parts.meter.device):
            if not x.isfinite().all():
                raise DiffxError("Samples hold numbers that are not finite; type a lower optimizer.lr.")
            images = self.parts.data.decode(x, self.parts.protocol["rounding"]).cpu()
            if sum(map(len, shown)) < SHOWN:
                shown.append(images)
            yield images

    def _append(self, values: dict[str, float], step: int) -> None:
        images, meter = step * self.config.batch_size, self.parts.meter
        self.run.append_point(
            {
                "step": step,
                "images": images,
                meter.unit: meter.hours,
                "train_flops": images * self.parts.flops.train,
                "values": values,
                "protocol": self.protocol_hash,
                "ema_decay": self.config.ema_decay,
            }
        )
