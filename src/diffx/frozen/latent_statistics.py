"""Mean and deviation of an autoencoder's latents, from the files that stand beside weights."""

import json
from pathlib import Path
from typing import Any

import torch

from diffx.errors import DiffxError
from diffx.store.weights import read_weights

Scaling = tuple[list[float], list[float]]
"""Shift and scale, each one number or one per channel: a diffusion model trains on (raw - shift)·scale."""
OWN = "channel_statistics.json"


def read_statistics(folder: Path) -> Scaling | None:
    """What the file of statistics in `folder` says; None where there is none.

    channel_statistics.json is {"mean": [...], "std": [...]} over raw latents, as in a preparation's manifest.
    latents_stats.pt and *-latents-stats.pt hold tensors of as many numbers as there are channels: "mean" and "std"
    (LightningDiT), or "latents_bias" and "latents_scale", whose scale is 1/std (REPA-E).

    Raises:
        DiffxError: there are several files, or the one is damaged, or says something else.
    """
    if (own := folder / OWN).is_file():
        try:
            found = json.loads(own.read_text())
            return [float(m) for m in found["mean"]], [1 / float(s) for s in found["std"]]
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise DiffxError(f'{own} has to be {{"mean": [...], "std": [...]}}, std positive.') from error
    files = sorted({*folder.glob("*latents_stats.pt"), *folder.glob("*latents-stats.pt")})
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DiffxError(f"{folder} has {len(files)} files of latent statistics ({names}); leave that of its weights.")
    return _of_tensors(files[0]) if files else None


def is_statistics(file: Path) -> bool:
    """Whether a file is one of statistics, and not of weights, by its name."""
    return file.stem.endswith(("latents_stats", "latents-stats")) or file.name in ("stat.pt", "stats.pt")


def _of_tensors(file: Path) -> Scaling:
    state = read_weights(file)
    if state.keys() >= {"mean", "std"}:
        stds = _numbers(state["std"], file)
        if not all(std > 0 for std in stds):
            raise DiffxError(f"{file} has a std of {min(stds)}, and those of latents are positive.")
        return _numbers(state["mean"], file), [1 / std for std in stds]
    if state.keys() >= {"latents_bias", "latents_scale"}:
        return _numbers(state["latents_bias"], file), _numbers(state["latents_scale"], file)
    raise DiffxError(f"{file} holds {sorted(state)[:4]}, and mean and std of latents are wanted.")


def _numbers(tensor: Any, file: Path) -> list[float]:
    if not isinstance(tensor, torch.Tensor):
        raise DiffxError(f"{file} holds no tensors of statistics.")
    numbers: list[float] = tensor.double().flatten().tolist()
    return numbers
