"""One evaluation: draw a set of samples under a protocol and measure it. A protocol is all that moves an FID but the
model; it is hashed and stored with every number."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from diffx import ranks
from diffx.assemble.parts import Parts
from diffx.backbone import Backbone
from diffx.config.settings import Settings
from diffx.data.prompts import prompts_of
from diffx.errors import Diverged
from diffx.evaluation.conditions import make_conditions
from diffx.evaluation.sampling import Sampling
from diffx.pixels.captioned import save_captioned
from diffx.pixels.grid import save_grid
from diffx.processes.devices import cost_unit
from diffx.run.folder import RunDir
from diffx.run.name import short_hash
from diffx.run.sink import Sink

SHOWN = 100  # samples in the picture of an evaluation


@dataclass
class Drawn:
    """What is kept of a rank's samples: the first ones, and how many were broken."""

    first: list[Tensor] = field(default_factory=list)
    broken: int = 0


class Evaluation:
    """Samples from the EMA weights, measures them, and writes one line of the curve and one picture."""

    def __init__(self, settings: Settings, run: RunDir, parts: Parts) -> None:
        self.settings, self.run, self.parts = settings, run, parts
        self.logger = Sink(None)  # the run's is made after its folder, which everything else is checked before
        self.watch: Callable[[int, int, int], None] = lambda *_: None  # hears the step, samples drawn, samples wanted
        self.prompts = prompts_of(parts.data)
        self.sampling = Sampling(settings, parts.model.objective, make_conditions(settings, parts.data))
        self.decode = parts.end_to_end.decode if parts.end_to_end else parts.data.decode
        self.protocol_hash = short_hash(parts.protocol)

    def __call__(self, network: Backbone, step: int, hours: float) -> dict[str, float]:
        """The values of an average of the weights after `step` steps, which had cost `hours`. Every rank has to call
        it.

        Raises:
            Diverged: samples or their measures are not finite.
        """
        drawn = Drawn()
        mine = range(ranks.rank(), self.settings.eval.samples, ranks.world())
        values = self.parts.metrics(self._samples(network, mine, drawn, step))
        _refuse_broken(values, sum(ranks.everyones(drawn.broken)), step)
        pictures = ranks.everyones(drawn.first)
        if not ranks.is_first():
            return values
        picture = self.run.path / "samples" / f"step_{step:08d}.png"
        with self.run.writing(picture):
            save_grid(shown := torch.stack(_in_turn(pictures)[:SHOWN]), picture)
        if self.prompts:
            picture = picture.with_name(f"prompts_{step:08d}.png")
            with self.run.writing(picture):
                save_captioned(shown, self.prompts, picture)
        self._append(values, step, hours)
        print(f"step {step} · " + " · ".join(f"{name} {value:.3g}" for name, value in values.items()), flush=True)
        rising = [name for name, metric in self.parts.metrics.metrics.items() if metric.higher_is_better]
        self.logger.evaluation(values, rising, picture, (cost_unit(self.parts.device), hours), step)
        return values

    def _samples(self, network: Backbone, indices: range, drawn: "Drawn", step: int) -> Iterator[Tensor]:
        """This rank's samples as uint8 batches on the CPU. Numbers that are not finite become 0 and are counted: every
        rank has to come to the end, where all of them learn of it."""
        wanted = len(indices[: -(-SHOWN // ranks.world())])
        self.watch(step, 0, len(indices))
        for number, x in enumerate(self.sampling.batches(network, indices, self.parts.device), start=1):
            self.watch(step, min(number * self.settings.eval.batch_size, len(indices)), len(indices))
            drawn.broken += int((~x.isfinite()).flatten(1).any(1).sum())
            x = x.nan_to_num(0.0, 0.0, 0.0)
            images = self.sampling.decode(self.decode, x, self.parts.protocol["rounding"]).cpu()
            drawn.first += images[: wanted - len(drawn.first)].unbind()
            yield images

    def _append(self, values: dict[str, float], step: int, hours: float) -> None:
        images = step * self.settings.batch_size
        self.run.append_point(
            {
                "step": step,
                "images": images,
                cost_unit(self.parts.device): hours,
                "train_flops": images * self.parts.flops.train,
                "values": values,
                "protocol": self.protocol_hash,
                "ema_decay": self.settings.ema_decay,
            }
        )


def _in_turn(pictures: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The samples of all ranks by their number: sample i is rank i mod world's, so that a picture is the same on any
    number of devices."""
    return [image for row in zip_longest(*pictures) for image in row if image is not None]


def _refuse_broken(values: Mapping[str, float], broken: int, step: int) -> None:
    """Raises Diverged for samples or measures that are not finite."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    wrong = [f"{broken} samples hold NaN or infinity"] if broken else wrong
    if wrong:
        raise Diverged(f"After step {step} {', '.join(wrong)}; type a lower optimizer.lr.", step)
