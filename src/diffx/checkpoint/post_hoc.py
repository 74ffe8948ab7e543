"""Averages of any length after training, from snapshots of two that were kept in training (Karras et al. 2024, "EDM2",
arXiv 2312.02696, section 3 and appendix C).

A power-function average counts the weights θ(τ) of step τ by τ^γ: it grows with training, and its length σ is a share
of that, σ² = (γ + 1) / ((γ + 2)² (γ + 3)). One of another length, at any step, is the combination of snapshots whose
profile over τ is nearest in least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from diffx.config.protocol import with_ema
from diffx.config.settings import Settings
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.store.sealed import facts_of, read_sealed, write_sealed
from diffx.store.whole_file import replaced

LENGTHS = (0.05, 0.1)
"""Of the two that are kept: EDM2's."""
SHORTEST, LONGEST = 0.01, 0.25


@cache
def exponent(length: float) -> float:
    """γ of an average of length σ: the largest root of (γ + 2)² (γ + 3) σ² = γ + 1."""
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay_at(length: float, step: int) -> float:
    """β by which θ̂ ← β θ̂ + (1 − β) θ after the step-th step, counted from 1 (equation 127 there: (1 − 1/t)^(γ + 1))."""
    return float((1 - 1 / step) ** (exponent(length) + 1))


class Snapshot(NamedTuple):
    """An average of a length as it was after a step."""

    step: int
    length: float
    file: Path = Path()


def overlap(a: Snapshot, b: Snapshot) -> float:
    """∫ p_a p_b of the two profiles p(τ) = (γ + 1) τ^γ / t^(γ + 1) on [0, t]."""
    first, second = sorted((a, b), key=lambda one: one.step)
    gamma, other = exponent(first.length), exponent(second.length)
    return (gamma + 1) * (other + 1) * (first.step / second.step) ** other / ((gamma + other + 1) * second.step)


def combine(snapshots: Sequence[Snapshot], wanted: Snapshot) -> list[float]:
    """The factors of the snapshots that come nearest to the wanted average; they add up to about 1."""
    products = np.array([[overlap(a, b) for b in snapshots] for a in snapshots])
    against = np.array([overlap(one, wanted) for one in snapshots])
    scale = 1 / np.sqrt(products.diagonal())  # of profiles, whose heights differ by the number of steps
    solved = np.linalg.lstsq(products * scale * scale[:, None], against * scale, rcond=1e-12)[0]
    return [float(factor) for factor in solved * scale]


def snapshots_of(run: RunDir) -> list[Snapshot]:
    """Those that training has kept, by step."""
    found = []
    for file in sorted(run.snapshots.glob("step_*.safetensors")):
        _, step, length = file.stem.split("_")
        found.append(Snapshot(int(step), float(length), file))
    return found


def write_average(run: RunDir, length: float) -> Path:
    """The average of this length at the last snapshot, made once and again when there are more snapshots.

    Raises:
        DiffxError: a length that is none, or a run that keeps no snapshots.
    """
    if not SHORTEST <= length <= LONGEST:
        raise DiffxError(f"--ema-length {length:g} is no share of training; type one from {SHORTEST} to {LONGEST}.")
    kept = snapshots_of(run)
    if not kept:
        raise DiffxError(f"{run.path} keeps no snapshots; train it with snapshot_steps=1000, or type --ema.")
    last, out = kept[-1].step, run.path / "checkpoints" / f"ema_length_{length:g}.safetensors"
    facts = {"run": facts_of(kept[-1].file).get("run", ""), "step": str(last), "of": str(len(kept))}
    with FileLock(f"{out}.lock"):
        if not (out.exists() and facts.items() <= facts_of(out).items()):
            weights = _combined(kept, combine(kept, Snapshot(last, length)))
            with replaced(out) as beside:
                write_sealed(weights, facts, beside)
    return out


def _combined(snapshots: Sequence[Snapshot], factors: Sequence[float]) -> dict[str, Tensor]:
    """The sum of the snapshots' tensors, each by its factor; one that is the same in all of them stays as it is: the
    factors add up to about 1, and a table of positions or of indices is no average."""
    fixed = read_sealed(snapshots[-1].file)
    total: dict[str, Tensor] = {}
    for one, factor in zip(snapshots, factors, strict=True):
        for name, tensor in read_sealed(one.file).items():
            total[name] = total[name] + factor * tensor if name in total else factor * tensor
            if name in fixed and not torch.equal(tensor, fixed[name]):
                del fixed[name]
    return total | fixed


def write_snapshot(run: RunDir, step: int, length: float, weights: Mapping[str, Tensor], name: str) -> None:
    """Keep an average of this length as it is after a step; name: of the run."""
    file = run.snapshots / f"step_{step:08d}_{length:g}.safetensors"
    with run.writing(file), replaced(file) as beside:
        write_sealed(weights, {"run": name, "step": str(step), "length": f"{length:g}"}, beside)


def choose_average(settings: Settings, run: RunDir, decay: float | None, length: float | None) -> tuple[Settings, Path]:
    """A run's settings, but that they are about one of its averages, and the file of its weights: of a decay that it
    has kept (None: its own), or of any length.

    Raises:
        DiffxError: the run keeps no such average.
    """
    if length is None:
        return with_ema(settings, run, decay)
    made = write_average(run, length)
    if settings.end_to_end is not None:
        _check_decoder(run, facts_of(made)["step"], length)
    return replace(settings, ema_length=length), made


def _check_decoder(run: RunDir, step: str, length: float) -> None:
    """Raises DiffxError where the autoencoder that was trained too is of another step than the average."""
    decoder = facts_of(run.autoencoder_weights).get("step")
    if decoder != step:
        raise DiffxError(
            f"--ema-length {length:g}: the last snapshot of {run.path} is of step {step} and the autoencoder that was "
            f"trained with the network of step {decoder}, which would decode latents of another space; type --ema, or "
            "train on to a step of which both are kept (snapshot_steps)."
        )
