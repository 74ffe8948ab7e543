"""Vision transformers of timm as frozen encoders: weights, preprocessing, tokens."""

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.errors import DiffxError
from diffx.frozen.hub import cached_file, hub_answers
from diffx.frozen.untrained import RANDOM, make_untrained
from diffx.store.weights import local_file, read_weights, weights_folder

Colour = tuple[float, float, float]

IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Colour, Colour] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: tuple[Colour, Colour] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class VisionModel:
    """A timm model and how images are put before it.

    name: in timm; without a tag timm has no weights of it, and a local file is the only way.
    patch: pixels of the resized image under one token. colours: (mean, std) of images in [0, 1].
    resize_first: resize before normalising (CLIP) instead of after (DINOv2, I-JEPA), as REPA does; bicubic without
    antialiasing either way, so that the order shows only in rounding and at the borders.
    final_norm: tokens after the last LayerNorm; REPA takes MAE's before it.
    keys: prefix of this model's names inside its published file.
    """

    name: str
    patch: int
    colours: tuple[Colour, Colour] = IMAGENET
    resize_first: bool = False
    final_norm: bool = True
    keys: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()


class VisionEncoder:
    """A frozen timm model: uint8 images (B, 1 or 3, H, W) to patch tokens float32 (B, side², dim), and class_token() to
    (B, dim). Asked for both of one batch it runs once.

    Not a module, so that it is in no checkpoint, optimizer or EMA. Images are resized to patch·side pixels: 224 for
    DINOv2 on a grid of 16. On a GPU it runs in bfloat16 autocast.

    Raises:
        DiffxError: its weights cannot be found; the sentence says the three ways to provide them.
    """

    def __init__(self, name: str, model: VisionModel, side: int, device: torch.device) -> None:
        self.edge, self.side, self.device = model.patch * side, side, device
        self.resize_first, self.final_norm = model.resize_first, model.final_norm
        self._mean, self._std = (torch.tensor(c, device=device).view(1, 3, 1, 1) for c in model.colours)
        if name == RANDOM:
            network = make_untrained("encoder", lambda: untrained(model, side))
        else:
            network = pretrained(name, model, self.edge)
        self._network = network.to(device).eval().requires_grad_(False)
        self._rest: tuple[weakref.ref[Tensor] | None, dict[str, Tensor]] = (None, {})

    def compile(self) -> None:
        """Compile the network, and with it resizing and normalising, which would each read and write all images; FLOPs
        have to be counted before, since a counter sees nothing of a compiled one."""
        self._forward = torch.compile(self._forward)  # type: ignore[method-assign]

    @property
    def network(self) -> Any:
        """The timm model, for those who listen to its layers."""
        return self._network

    def __call__(self, image: Tensor) -> Tensor:
        return self._one_of("patches", image)

    def class_token(self, image: Tensor) -> Tensor:
        """(B, dim), after the last norm where the patches are. Not every model has one (EncoderSpec.class_token)."""
        return self._one_of("class", image)

    def _one_of(self, wanted: str, image: Tensor) -> Tensor:
        """One output for these images; the other is kept until it is asked for, or other images come."""
        batch, rest = self._rest
        if batch is None or batch() is not image or wanted not in rest:
            rest = self._run(image)
        found = rest.pop(wanted)
        self._rest = (weakref.ref(image), rest)
        return found

    @torch.no_grad()
    def _run(self, image: Tensor) -> dict[str, Tensor]:
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            tokens = self._forward(image.to(self.device))
        if isinstance(tokens, tuple):
            return {"patches": tokens[0].float(), "class": tokens[1][:, 0].float()}
        return {"patches": tokens.float()}

    def _forward(self, image: Tensor) -> Any:
        """The patch tokens, and beside them the prefix tokens of a model that has some."""
        (tokens,) = self._network.forward_intermediates(
            self.preprocess(image),
            indices=1,
            norm=self.final_norm,
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=self._network.num_prefix_tokens > 0,
        )
        return tokens

    def preprocess(self, image: Tensor) -> Tensor:
        """uint8 (B, 1 or 3, H, W) to float32 (B, 3, edge, edge) as the network was trained to see it."""
        x = image.to(self.device).float().expand(-1, 3, -1, -1) / 255
        if self.resize_first:
            return (self._resize(x) - self._mean) / self._std
        return self._resize((x - self._mean) / self._std)

    def _resize(self, x: Tensor) -> Tensor:
        if x.shape[-2:] == (self.edge, self.edge):
            return x
        return F.interpolate(x, size=(self.edge, self.edge), mode="bicubic")


def pretrained(name: str, model: VisionModel, edge: int) -> Any:
    """The timm network for images of `edge` pixels, its position table resampled to the grid, with its weights.

    A local file comes first (see local_file), then the Hugging Face cache, then a download unless HF_HUB_OFFLINE=1.
    """
    import timm

    arguments: dict[str, Any] = {"num_classes": 0, **dict(model.arguments)}
    if name_takes_size(model.name):
        arguments["img_size"] = edge
    file = find_weights(name, model)
    if file:
        arguments["pretrained_cfg_overlay"] = {"state_dict": read_weights(file, model.keys)}
    try:
        network: Any = timm.create_model(model.name, pretrained=True, **arguments)
    except Exception as error:
        # timm and huggingface_hub raise a dozen unrelated types here; all of them mean "no usable weights".
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if file:
            raise DiffxError(f"{file} does not hold the weights of {model.name} ({reason}).") from error
        raise DiffxError(f"{_missing(name, model)} The download failed: {reason}") from error
    network.pretrained_cfg = {}  # it holds on to the state dict
    return network


def untrained(model: VisionModel, side: int) -> Any:
    """The timm network for a grid of side² tokens, with random weights: for counting and for benchmarks."""
    import timm

    options: dict[str, Any] = {"img_size": model.patch * side} if name_takes_size(model.name) else {}
    architecture = model.name.partition(".")[0]
    return timm.create_model(architecture, pretrained=False, num_classes=0, **options, **dict(model.arguments))


def find_weights(name: str, model: VisionModel) -> Path | None:
    """The weights' file, or None where the Hub can be asked for them. Raises DiffxError where neither is so."""
    file = local_file(name) or _cached(model.name)
    if file is None and ("." not in model.name or not hub_answers()):
        raise DiffxError(_missing(name, model))
    return file


def _cached(name: str) -> Path | None:
    """The weights of a timm model in the Hugging Face cache."""
    repository = _published(name, "hf_hub_id")
    file = repository and cached_file(repository, "model.safetensors")
    return Path(file) if file else None


def _published(name: str, key: str) -> str | None:
    """What timm knows of a model's published weights: "hf_hub_id" or "url"."""
    import timm

    return timm.models.get_pretrained_cfg_value(name, key) if "." in name else None


def name_takes_size(name: str) -> bool:
    """Whether the timm model has a position table to resample; DINOv3's rotary positions fit any size."""
    return "dinov3" not in name


def _missing(name: str, model: VisionModel) -> str:
    file = weights_folder() / f"{name}.safetensors"
    url, repository = _published(model.name, "url"), _published(model.name, "hf_hub_id")
    if repository:
        return (
            f"encoder {name}: its weights are not here. Either put a file of them at {file} (DIFFX_WEIGHTS sets the "
            f"folder), or copy a Hugging Face cache that holds {repository} here and set HF_HOME, or run "
            f"`hf download {repository}` once where there is a network."
        )
    source = f"download {url}" if url else "timm publishes none, so take the authors' file"
    return (
        f"encoder {name}: its weights are not here; {source} and put it at {file.with_suffix('.pth')} "
        "(DIFFX_WEIGHTS sets the folder)."
    )
