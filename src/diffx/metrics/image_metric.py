"""What the metrics have in common, as torchmetrics wants it: reset, update, compute, and states that add up."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from diffx.errors import DiffxError
from diffx.processes.gather import all_gathered

Network = Callable[[Tensor], Tensor]


class ImageMetric(Metric):
    """A torchmetrics.Metric that is updated with uint8 images (B, 1 or 3, H, W), which `network` turns into features.

    The network is not part of the module: it is in no state dict, and Lightning neither moves nor casts it. States
    follow `.to(device)` but keep their dtype, also where the model around them is made half precision.

    Args:
        network: images to features, with gradients off.
        settings: torchmetrics' own, such as sync_on_compute=False for a process that measures alone.
    """

    is_differentiable = False
    full_state_update: bool | None = False

    def __init__(self, network: Network, **settings: Any) -> None:
        super().__init__(**settings)
        self._network = (network,)  # in a tuple, where torch looks for no modules

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the network makes of these images. Raises DiffxError where that is not finite."""
        features = self._network[0](images)
        bad = int((~features.isfinite()).reshape(len(features), -1).any(dim=1).sum())
        if bad:
            raise DiffxError(
                f"{bad} of {len(features)} feature vectors hold NaN or infinity, which no metric can measure. "
                "The images they come from are usually the cause: look at the samples."
            )
        return features

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = ()) -> nn.Module:
        def moved(x: Tensor) -> Tensor:
            return x.to(fn(x.new_empty(0)).device)

        return super()._apply(moved, exclude_state)


class KeptFeatures(ImageMetric):
    """A metric that needs the features of all images at once, 8 KB an image in Inception, and those of real ones.

    Args:
        network: images to features (B, D).
        reference: gives the features (M, D) of real images, when they are first needed.
    """

    seen: list[Tensor]

    def __init__(self, network: Network, reference: Callable[[], Tensor], **settings: Any) -> None:
        super().__init__(network, dist_sync_fn=all_gathered, **settings)
        self._reference = reference
        self.add_state("seen", [], "cat")

    def update(self, images: Tensor) -> None:
        """Add images. Raises DiffxError for features that are not finite."""
        self.seen.append(self.features(images))

    def rows(self) -> Tensor:
        """(N, D): the features so far, which torchmetrics has joined already where there are several processes."""
        if isinstance(self.seen, Tensor):
            return self.seen
        return torch.cat(self.seen) if self.seen else torch.zeros(0, 0)


class Once:
    """A network that runs once for each batch, however many metrics ask for its features in turn."""

    def __init__(self, network: Callable[[Tensor], Any]) -> None:
        self._network = network
        self._images: Tensor | None = None
        self._version = -1
        self._found: Any = None

    def __call__(self, images: Tensor) -> Any:
        # A batch may be written over in place; torch counts that, but not under inference_mode.
        version = 0 if images.is_inference() else images._version
        if images is not self._images or version != self._version:
            self._found = self._network(images)
            self._images, self._version = images, version
        return self._found
