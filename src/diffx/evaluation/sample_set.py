"""A set of samples on disk: drawn on any number of devices, gone on with after a kill, the same in every case."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from diffx import ranks
from diffx.assemble.end_to_end import trained_decoder
from diffx.assemble.model import build_network
from diffx.checkpoint.native import load_backbone
from diffx.config.protocol import protocol
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.data.prompts import prompts_digest, prompts_of
from diffx.errors import DiffxError
from diffx.evaluation.conditions import check_condition, make_conditions
from diffx.evaluation.sampling import Sampling
from diffx.pixels.captioned import save_captioned
from diffx.pixels.files import write_npz
from diffx.pixels.grid import save_grid
from diffx.pixels.values import to_uint8
from diffx.processes.devices import pick_device
from diffx.run.counting import Counting
from diffx.run.folder import AUTOENCODER
from diffx.store.digest import digest
from diffx.store.whole_file import replaced, write_text

SHOWN = 100  # in the picture


@dataclass(frozen=True)
class SampleSet:
    """`count` samples of a backbone in `out`, an .npz with arr_0; a PNG grid and a JSON of facts come with it.

    They are drawn in parts of eval.batch_size consecutive samples, each a file as soon as it is whole, and part k is
    always the same batch: so neither the number of devices nor a kill changes a bit of the set on one kind of device.

    Args:
        weights: of the backbone, such as a run's checkpoints/ema.safetensors.
        settings: of the run, with the protocol to sample under.
        label: one label for all samples; None for eval.labels.
        prompts: what samples are drawn for in turn, where text conditions; None: the prompts that runs are measured by.
    """

    weights: Path
    settings: Settings
    count: int
    out: Path
    label: int | None = None
    prompts: tuple[str, ...] | None = None

    def draw(self) -> Path:
        """Draw what is missing and return the .npz. Every rank has to call it, and all return when it is whole.

        Raises:
            DiffxError: no weights, settings that do not fit the model, samples that are not finite, a full disk.
        """
        check_condition(self.settings, self.label, self.prompts)
        facts = self.facts()
        key = digest(facts)
        if not self._is_whole(key):
            self._draw_parts(self._parts_folder(key))
        if dist.is_initialized():
            dist.barrier()
        if ranks.is_first() and not self._is_whole(key):
            self._assemble(self._parts_folder(key), facts | {"key": key})
        if dist.is_initialized():
            dist.barrier()
        return self.out

    def facts(self) -> dict[str, Any]:
        """All that determines the samples."""
        if not self.weights.exists():
            raise DiffxError(f"{self.weights} does not exist: the run has no checkpoint yet. Train it first.")
        sha256 = _sha256(self.weights)
        words = self._words()
        made = protocol(self.settings, "", "", prompts_digest(words)) | {"samples": self.count, "label": self.label}
        facts = {"protocol": made, "weights": sha256, "batch_size": self.settings.eval.batch_size}
        if words:
            facts["prompts"] = words
        if self._captions is not None and hasattr(self._captions, "encoded_by"):
            facts |= self._captions.encoded_by()
        trained = self.weights.with_name(AUTOENCODER)
        if self.settings.end_to_end and trained.exists():
            facts["autoencoder"] = _sha256(trained)
        return facts

    def _words(self) -> list[str]:
        """The prompts, sample i being of number i mod theirs; none where classes condition."""
        if self.prompts is None or self._captions is None:
            return prompts_of(self._captions)
        return list(self.prompts)

    @cached_property
    def _captions(self) -> Any:
        """The data where text conditions, which knows prompts and their encoder; None where classes do."""
        return make(self.settings.source) if self.settings.data.text else None

    def _is_whole(self, key: str) -> bool:
        try:
            return self.out.exists() and json.loads(self._beside(".json").read_text())["key"] == key
        except (OSError, ValueError, KeyError):
            return False

    def _beside(self, suffix: str) -> Path:
        return self.out.with_suffix(suffix)

    def _parts_folder(self, key: str) -> Path:
        return self.out.with_name(f".{self.out.stem}-{key}.parts")

    def _starts(self) -> range:
        return range(0, self.count, self.settings.eval.batch_size)

    def _draw_parts(self, folder: Path) -> None:
        """This rank's parts that are not there yet."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiffxError(f"{self.out} cannot be written ({error.strerror}); type -o and another place.") from error
        mine = self._starts()[ranks.rank() :: ranks.world()]
        missing = [start for start in mine if not (folder / f"{start:08d}.npy").exists()]
        if not missing:
            return
        device = pick_device(self.settings.trainer.accelerator)
        conditions = make_conditions(self.settings, self._captions, self.label, self.prompts)
        with torch.random.fork_rng(devices=[]):
            network, objective = build_network(self.settings)
        load_backbone(network, self.weights)
        backbone, decode = network.to(device), decoder(self.settings, self.weights)
        sampling = Sampling(self.settings, objective, conditions)
        batches = [range(start, min(start + self.settings.eval.batch_size, self.count)) for start in missing]
        with Counting("samples", sum(map(len, batches)), ranks.rank(), ranks.world()) as counting:
            for indices in batches:
                (x,) = sampling.batches(backbone, indices, device)
                refuse_non_finite(x, indices.start)
                images = sampling.decode(decode, x, self.settings.eval.rounding)
                _save(folder / f"{indices.start:08d}.npy", images)
                counting.advance(len(indices))

    def _assemble(self, folder: Path, facts: dict[str, Any]) -> None:
        files = [folder / f"{start:08d}.npy" for start in self._starts()]
        shown = torch.cat([_load(file) for file in files[: -(-SHOWN // self.settings.eval.batch_size)]])
        write_npz(self.out, self.count, (_load(file) for file in files))
        if words := facts.get("prompts"):
            save_captioned(shown, words, self._beside(".png"))
        else:
            save_grid(shown[:SHOWN], self._beside(".png"))
        write_text(self._beside(".json"), json.dumps(facts, indent=1) + "\n")
        shutil.rmtree(folder)


def decoder(settings: Settings, weights: Path) -> Callable[..., Tensor]:
    """From x and a rounding to uint8 images. Latents need their folder, which knows its autoencoder and scale; one that
    was trained with the network is beside its weights."""
    if settings.end_to_end:
        return trained_decoder(settings, weights.with_name(AUTOENCODER))
    if settings.data.decoder == "pixels":
        return to_uint8
    decode: Callable[..., Tensor] = make(settings.source).decode
    return decode


def refuse_non_finite(x: Tensor, start: int) -> None:
    """Raises DiffxError for samples that hold NaN or infinity, which as uint8 would look like images."""
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise DiffxError(
            f"{bad} of the {len(x)} samples from number {start} on hold NaN or infinity: the weights diverged, or the "
            "guidance scale is too high."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(file: Path, images: Tensor) -> None:
    try:
        with replaced(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, images.cpu().numpy())
    except OSError as error:
        raise DiffxError(f"{file} cannot be written ({error.strerror}); what is drawn is kept.") from error


def _load(file: Path) -> Tensor:
    return torch.from_numpy(np.load(file, allow_pickle=False))
