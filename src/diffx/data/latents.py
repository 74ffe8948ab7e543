"""Images as an autoencoder's latents, prepared beforehand with `python -m diffx.prepare` (docs/prepare.md)."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffx.backbone import Text
from diffx.data.remote_shards import open_rows
from diffx.data.shards import Rows, join, verify_command
from diffx.data.stream import Joined, Stream
from diffx.data.text_rows import EncodedCaptions
from diffx.errors import DiffxError
from diffx.pixels.values import to_uint8
from diffx.store.bounded import GB, BoundedFolder
from diffx.store.cache import home
from diffx.store.digest import digest
from diffx.store.remote import RemotePath, is_url

if TYPE_CHECKING:
    from diffx.frozen.autoencoder import Autoencoder

EQUAL, OTHERS = 1e-3, 0.05  # relative: how far statistics may be apart; those that others measured on their images


class Latents:
    """Latents of labelled images from shards, joined by key with the images or with cached features. Shards on this
    machine are memory-mapped; those behind a URL are streamed (diffx.data.stream).

    x is the scaled mean of the autoencoder's posterior and "x_std" its scaled standard deviation: the step draws
    x + x_std·noise anew, from its own generator, so that a resumed run draws the same. Autoencoders without a posterior
    (DC-AE) have no "x_std".

    Args:
        root: the folder that diffx.prepare filled, or the URL of a copy of it.
        name: in protocols and plots.
        num_classes: classes of the backbone; None takes those of the folder.
        flip: flipped images count as further training images, numbers N to 2N-1, so that no random draw is needed.
            Their latents (and cached features) have to be prepared with --flip.
        cached_features: use the features in the folder where an encoder's are there.
        decoder: autoencoder that decodes samples (name or folder); None takes the one that encoded.
        autoencoder: the one to prepare them with, for the sentence that says how.
        captions: samples are conditioned by the encoded captions in the folder (`prepare text`), not by their labels.
        prompts: a file of prompts that samples are drawn for when a run on captions is measured.
        window: how many samples of an epoch are mixed with each other; None: all.
        cache: folder for what is read of a URL; None: `streams` in diffx's cache folder.
        cache_gb: bound of that folder, 10⁹ bytes.

    Raises:
        DiffxError: nothing is prepared there, or more classes than num_classes.
    """

    def __init__(
        self,
        root: str,
        name: str = "latents",
        num_classes: int | None = None,
        flip: bool = False,
        cached_features: bool = True,
        decoder: str | None = None,
        autoencoder: str | None = None,
        captions: bool = False,
        prompts: str | None = None,
        window: int | None = None,
        cache: str | None = None,
        cache_gb: float = 100,
    ) -> None:
        self._prepared_with = autoencoder or "stabilityai/sd-vae-ft-mse"
        self.root: Path | RemotePath = RemotePath(root) if is_url(root) else Path(root).expanduser()
        self.name, self.flip, self.window = name, flip, _check_window(window)
        self._kept = _kept(cache, cache_gb) if is_url(root) else None
        self.cached_features, self.decoder = cached_features, decoder
        self._sides = ("", "-flipped") if flip else ("",)
        opened = self._open("latents")
        self._keys, labels = opened[0].index()
        if not len(labels):
            raise DiffxError(f"{self.root / 'latents'} holds no samples.")
        self._labels = torch.from_numpy(labels)
        first = Joined(opened[0], np.arange(len(labels)), self._kept)
        self._latents = [first, *(self._join("latents", shards) for shards in opened[1:])]
        self._images: Joined | None = None
        self._features: dict[str, list[Joined]] = {}
        facts = opened[0].manifest
        self.autoencoder: str = facts["facts"]["autoencoder"]
        self._posterior: bool = facts["facts"]["posterior"]
        channels, *size = opened[0].shape
        self.shape = (channels // 2 if self._posterior else channels, *size)
        self._shift, self._scale = (torch.tensor(facts["facts"][key]).view(-1, 1, 1) for key in ("shift", "scale"))
        if not all(math.isfinite(x) and x for x in facts["facts"]["scale"]):
            raise DiffxError(
                f"{self.root / 'latents' / 'manifest.json'} has scale {facts['facts']['scale']}, which leaves nothing "
                f"to train on; type {verify_command(self.root / 'latents')}."
            )
        made_from = {"checksums": [s.manifest["checksum"] for s in opened], "flip": flip}
        self.offline: dict[str, dict[str, float]] = {}
        self._captions = EncodedCaptions(self.root, self._keys, prompts, self._kept) if captions else None
        self.text = self._captions and self._captions.shape
        self.prompts = self._captions.prompts if self._captions else []
        if self._captions is not None:
            made_from["captions"] = self._captions.identity
            self.offline["text"] = self._captions.cost
        self.num_classes = 0 if captions else self._check_classes(num_classes)
        self.identity = digest(made_from)
        self._autoencoder: Autoencoder | None = None

    def __len__(self) -> int:
        return len(self._labels) * len(self._sides)

    @property
    def stream(self) -> Stream | None:
        """The order in windows and what is fetched for it, of what provide() was asked for; None: any order will do."""
        if self.window is None and self._kept is None:
            return None
        shared = [part for part in (self._images, self._captions and self._captions.rows) if part]
        own = [self._latents, *self._features.values()]
        sides = [[*(parts[side] for parts in own), *shared] for side in range(len(self._sides))]
        return Stream(len(self._labels), sides, self.window or len(self))

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Make batch() carry what of `needs` is prepared, and return the needs that are left for services.

        "image" is read from the images, "features/NAME" from a cache of tokens (side², dim) if there is one; an
        encoder without a cache needs the images. Images are read only if something needs them: they are twelve times
        the bytes of latents. `offline` then holds what the caches cost, in hours by unit.

        Raises:
            DiffxError: the images are not there, a sample has none, or a cache is of another grid.
        """
        left = []
        for need in needs:
            name = need.removeprefix("features/")
            if (
                name != need
                and self.cached_features
                and (self.root / need.replace("/", "-") / "manifest.json").exists()
            ):
                self._provide_features(name, side)
            elif name != need or need.startswith("class_token/"):
                left.append(need)
                self._provide_images()
            elif need == "image":
                self._provide_images()
            else:
                left.append(need)
        return left

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """Training images: "x" and "x_std" float32 (B, C, H, W), "y" int64 (B,) or Text, and what provide() was asked
        for: "image" uint8 (B, 3, R, R), "features/NAME" float16 (B, side², dim)."""
        flipped, place = np.divmod(indices.numpy(), len(self._labels))
        moments = torch.from_numpy(self._read(self._latents, flipped, place)).float()
        mean, *std = moments.chunk(2, dim=1) if self._posterior else (moments,)
        y = self._labels[place] if self._captions is None else self._captions.read(place)
        batch: dict[str, Any] = {"x": (mean - self._shift) * self._scale, "y": y}
        if std:
            batch["x_std"] = std[0] * self._scale
        for key, parts in self._features.items():
            batch[key] = torch.from_numpy(self._read(parts, flipped, place))
        if self._images is not None:
            image = self._images.read(place)
            mirrored = flipped > 0
            image[mirrored] = image[mirrored, ..., ::-1]
            batch["image"] = torch.from_numpy(image)
        return batch

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts as the captions were encoded. Raises DiffxError where the encoders are not there, or refuse one."""
        assert self._captions is not None
        return self._captions.encode(prompts)

    def reference(self) -> Tensor:
        """The held-out images, uint8 (M, 3, R, R), prepared with `images SRC ROOT --into reference`."""
        command = f"`python -m diffx.prepare images HELD_OUT {self.root} --into reference`"
        shards = open_rows(self.root / "reference", command)
        return torch.from_numpy(shards.read(np.arange(len(shards))))

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Scaled latents (B, C, H, W) to uint8 images (B, 3, R, R), on x's device. rounding: see to_uint8.

        Raises:
            DiffxError: the autoencoder's weights cannot be found.
        """
        return to_uint8(self.opened(x.device).decode(self._raw(x)), rounding)

    def autoencoder_features(self, x: Tensor) -> Tensor:
        """What the middle of the autoencoder's decoder makes of scaled latents x (B, C, H, W): (B, D, H, W).

        Raises:
            DiffxError: the autoencoder's weights cannot be found, or it has no such middle.
        """
        return self.opened(x.device).features(self._raw(x))

    def latent_space(self) -> "Autoencoder":
        """The autoencoder that made the latents. Raises DiffxError where its weights cannot be found."""
        from diffx.frozen.autoencoder import load_autoencoder

        if self.decoder in (None, self.autoencoder):
            return self.opened(torch.device("cpu"))
        return load_autoencoder(self.autoencoder)

    def opened(self, device: torch.device) -> "Autoencoder":
        """The autoencoder that decodes, loaded once. Raises DiffxError where its weights cannot be found, or it is of
        another latent space."""
        if self._autoencoder is None:
            from diffx.frozen.autoencoder import load_autoencoder

            self._autoencoder = load_autoencoder(self.decoder or self.autoencoder)
            self._check_decoder(self._autoencoder)
        return self._autoencoder.to(device)

    def _check_decoder(self, decoder: "Autoencoder") -> None:
        """Refuse an autoencoder of another latent space: two of one space (SD-VAE's two) scale alike."""
        facts = self._latents[0].shards.manifest["facts"]
        drawn = facts.get("drawn", False)  # once from the posterior, when others extracted them
        same = decoder.network.channels == self.shape[0] and (drawn or decoder.posterior == self._posterior)
        ours, theirs = (decoder.shift, decoder.scale), (facts["shift"], facts["scale"])
        if not same or not _alike(ours, theirs, OTHERS if drawn else EQUAL):
            raise DiffxError(
                f"{self.root / 'latents'} holds latents of {self.autoencoder}, of {self.shape[0]} channels, and "
                f"{decoder.name}, of {decoder.network.channels}, has another latent space (or other statistics), so "
                "that it would decode noise; leave data.source.decoder out, or prepare the latents with it."
            )

    def _raw(self, x: Tensor) -> Tensor:
        """Latents as the autoencoder has them, from scaled ones."""
        return x.float() / self._scale.to(x.device) + self._shift.to(x.device)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_autoencoder": None}

    def _read(self, parts: list[Joined], flipped: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of samples `place`, each from the upright or the flipped shards."""
        if not flipped.any():
            return parts[0].read(place)
        out = np.empty((len(place), *parts[0].shards.shape), parts[0].shards.dtype)
        for side, part in enumerate(parts):
            chosen = flipped == side
            out[chosen] = part.read(place[chosen])
        return out

    def _open(self, folder: str) -> list[Rows]:
        return [open_rows(self.root / f"{folder}{side}", self._how_to(folder)) for side in self._sides]

    def _how_to(self, folder: str) -> str:
        """The command that prepares a folder on this machine."""
        flip = " --flip" if self.flip else ""
        if folder.startswith("features-"):
            return f"`python -m diffx.prepare features {self.root} --encoder {folder.removeprefix('features-')}{flip}`"
        images = f"`python -m diffx.prepare images SRC {self.root} --resolution 256`"
        latents = f"`python -m diffx.prepare latents {self.root} --autoencoder {self._prepared_with}{flip}`"
        return (
            images
            if folder == "images"
            else latents
            if self._kept is None and (self.root / "images").exists()
            else f"{images}, then {latents}"
        )

    def _join(self, what: str, shards: Rows) -> Joined:
        """Rows of the samples in `shards`. Raises DiffxError naming the first sample that has none."""
        rows = join(self._keys, shards.index()[0])
        if (missing := np.flatnonzero(rows < 0)).size:
            first = self._keys[missing[0]].decode()
            raise DiffxError(
                f"{shards.folder} has no {what} of {missing.size} samples, the first {first}; "
                f"type `python -m diffx.prepare verify {self.root}`."
            )
        return Joined(shards, rows, self._kept)

    def _provide_images(self) -> None:
        if self._images is None:
            self._images = self._join("image", open_rows(self.root / "images", self._how_to("images")))

    def _provide_features(self, name: str, side: int) -> None:
        key, shards = f"features/{name}", self._open(f"features-{name}")
        if shards[0].shape[0] != side**2:
            raise DiffxError(
                f"{shards[0].folder} holds {shards[0].shape[0]} tokens per image and the backbone has {side}x{side}; "
                f"type data.source.cached_features=false, or prepare them with --grid {side}."
            )
        self._features[key] = [self._join("features", part) for part in shards]
        cost: dict[str, float] = {}
        for part in shards:
            for unit, hours in part.manifest["cost"].items():
                cost[unit] = cost.get(unit, 0.0) + hours
        self.offline[key] = cost

    def _check_classes(self, num_classes: int | None) -> int:
        present = int(self._labels.max()) + 1
        if num_classes is not None and num_classes < present:
            raise DiffxError(f"{self.root} has labels up to {present - 1}; type data.num_classes={present} or more.")
        return num_classes or present


def _check_window(window: int | None) -> int | None:
    if window is not None and (type(window) is not int or window < 1):
        raise DiffxError(f"data.source.window={window} must be a number of samples, or null for all.")
    return window


def _kept(cache: str | None, gigabytes: float) -> BoundedFolder:
    """Where what is read of a URL is kept."""
    if type(gigabytes) not in (int, float) or not 0 < gigabytes < math.inf:
        raise DiffxError(f"data.source.cache_gb={gigabytes} must be a number above 0, of 10⁹ bytes.")
    return BoundedFolder(Path(cache).expanduser() if cache else home() / "streams", int(gigabytes * GB))


def _alike(ours: tuple[list[float], list[float]], theirs: tuple[list[float], list[float]], near: float) -> bool:
    """Whether two (shift, scale) are the same: scales relative to each other, shifts to the deviation 1 / scale."""
    if [len(one) for one in ours] != [len(one) for one in theirs]:
        return False
    scales = all(math.isclose(a, b, rel_tol=near) for a, b in zip(ours[1], theirs[1], strict=True))
    widest = 1 / min(map(abs, theirs[1]))
    return scales and all(abs(a - b) <= near * max(widest, abs(b)) for a, b in zip(ours[0], theirs[0], strict=True))
