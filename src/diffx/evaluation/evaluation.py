"""One evaluation: draw a set of samples under a protocol and measure it. A protocol is all that moves an FID but the
model; it is hashed and stored with every number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffx import ranks
from diffx.assemble.parts import Parts
from diffx.backbone import Backbone
from diffx.config.settings import Settings
from diffx.errors import DiffxError
from diffx.evaluation.sampling import Sampling
from diffx.pixels.grid import save_grid
from diffx.processes.devices import cost_unit
from diffx.run.folder import RunDir
from diffx.run.name import short_hash
from diffx.run.sink import Sink

SHOWN = 100  # samples in the picture of an evaluation


class Evaluation:
    """Samples from the EMA weights, measures them, and writes one line of the curve and one picture."""

    def __init__(self, settings: Settings, run: RunDir, parts: Parts) -> None:
        self.settings, self.run, self.parts = settings, run, parts
        self.logger = Sink(None)  # the run's is made after its folder, which everything else is checked before
        self.sampling = Sampling(settings, parts.model.objective)
        self.protocol_hash = short_hash(parts.protocol)

    def __call__(self, network: Backbone, step: int, hours: float) -> None:
        """Measure an average of the weights after `step` steps, which had cost `hours`. Every rank has to call it."""
        mine = range(ranks.rank(), self.settings.eval.samples, ranks.world())
        shown: list[Tensor] = []
        values = self.parts.metrics(self._samples(network, mine, shown))
        if not ranks.is_first():
            return
        picture = self.run.path / "samples" / f"step_{step:08d}.png"
        save_grid(torch.cat(shown)[:SHOWN], picture)
        self._append(values, step, hours)
        print(f"step {step} · " + " · ".join(f"{name} {value:.3g}" for name, value in values.items()), flush=True)
        self.logger.evaluation(values, picture, (cost_unit(self.parts.device), hours), step)

    def _samples(self, network: Backbone, indices: range, shown: list[Tensor]) -> Iterator[Tensor]:
        """This rank's samples as uint8 batches on the CPU; the first ones are kept in `shown`."""
        for x in self.sampling.batches(network, indices, self.parts.device):
            if not x.isfinite().all():
                raise DiffxError("Samples hold numbers that are not finite; type a lower optimizer.lr.")
            images = self.parts.data.decode(x, self.parts.protocol["rounding"]).cpu()
            if sum(map(len, shown)) < SHOWN:
                shown.append(images)
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
