"""What conditions samples: classes in turn, one label, or prompts. Sample i's depends on the seed and i alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from diffx.backbone import Backbone, Text
from diffx.backbone.protocol import Condition
from diffx.config.settings import Settings
from diffx.data.prompts import check_prompts, prompts_of
from diffx.errors import DiffxError
from diffx.streams import Streams


class Conditions(Protocol):
    """The condition of the samples `part` for a backbone, and what samples are guided away from, on a device."""

    def __call__(self, backbone: Backbone, part: range, device: torch.device) -> tuple[Condition, Condition]: ...


@dataclass(frozen=True)
class Labels:
    """One label, or those of eval.labels: class i mod the number of classes where they are balanced, else at random."""

    kind: str
    seed: int
    label: int | None = None

    def __call__(self, backbone: Backbone, part: range, device: torch.device) -> tuple[Tensor, Condition]:
        labels = torch.tensor([self._label(i, backbone.num_classes) for i in part], device=device)
        return labels, backbone.null_condition(labels)

    def _label(self, index: int, classes: int) -> int:
        if self.label is not None:
            return self.label
        if self.kind == "balanced":
            return index % classes
        rng = Streams(self.seed, index).own("label")
        return int(torch.randint(classes, (), generator=rng))


@dataclass(frozen=True)
class Prompted:
    """Sample i is of prompt i mod their number. negative: what stands for no condition in guidance; None: the
    backbone's null condition, which captions were dropped for in training."""

    text: Text
    negative: Text | None = None

    def __call__(self, backbone: Backbone, part: range, device: torch.device) -> tuple[Text, Condition]:
        chosen = torch.tensor([i % len(self.text.mask) for i in part])
        y: Text = tree_map(lambda rows: rows[chosen].to(device), self.text)
        if self.negative is None:
            return y, backbone.null_condition(y)
        return y, tree_map(lambda row, rows: row.to(device).expand_as(rows), self.negative, y)


def make_conditions(
    settings: Settings, data: Any, label: int | None = None, prompts: Sequence[str] | None = None
) -> Conditions:
    """The conditions of samples under these settings. data: of captions, which encodes prompts; nothing is asked of
    another. prompts: in place of those that the run is measured by.

    Raises:
        DiffxError: what check_condition refuses, no prompt, or one that is empty or that the encoder does not take.
    """
    check_condition(settings, label, prompts)
    if settings.data.text is None:
        return Labels(settings.eval.labels, settings.eval.seed, label)
    negative = settings.eval.negative
    words = prompts_of(data) if prompts is None else list(prompts)
    if not words:
        raise DiffxError(
            f"data={settings.data.name} says of no prompt that samples are to be drawn for; type eval.prompts= and a "
            "file of prompts, one a line, or to diffx.sample --prompt and some words."
        )
    check_prompts(words)
    return Prompted(data.encode(words), None if negative is None else data.encode([negative]))


def check_condition(settings: Settings, label: int | None, prompts: Sequence[str] | None) -> None:
    """Raises DiffxError for a label that is no class, prompts where classes condition, and a label where text does."""
    classes = settings.data.num_classes
    if settings.data.text is not None:
        if label is not None:
            raise DiffxError(f"data={settings.data.name} has captions and no classes; type --prompt and some words.")
        return
    if prompts is not None or settings.eval.negative is not None:
        raise DiffxError(f"data={settings.data.name} has classes and takes no prompt; type --label and a class.")
    if label is not None and not 0 <= label < classes:
        raise DiffxError(f"label {label} is none of the {classes} classes; type a number from 0 to {classes - 1}.")
