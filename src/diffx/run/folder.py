"""The run directory runs/<study>/<id>/s<seed>/ and the files in it. curve.jsonl is the truth; W&B is a sink."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from diffx.errors import DiffxError
from diffx.store.whole_file import write_text

AUTOENCODER = "autoencoder.safetensors"
"""Beside a run's weights, where it has trained the autoencoder too."""


class Named(Protocol):
    """What names a run's folder: the settings of a run have it."""

    @property
    def runs_dir(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class RunDir:
    """Paths of one run and the small files in it. All writes but appended lines replace a file whole."""

    path: Path

    @classmethod
    def of(cls, run: Named) -> "RunDir":
        return cls(Path(run.runs_dir) / run.group / run.id / f"s{run.seed}")

    @property
    def settings(self) -> Path:
        return self.path / "config.yaml"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "previous.ckpt"

    @property
    def ema_weights(self) -> Path:
        return self.path / "checkpoints" / "ema.safetensors"

    @property
    def autoencoder_weights(self) -> Path:
        """Of the autoencoder, where it is trained too."""
        return self.ema_weights.with_name(AUTOENCODER)

    def more_ema_weights(self, decay: float) -> Path:
        """Of one of more_ema_decays."""
        return self.path / "checkpoints" / f"ema_{decay}.safetensors"

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots of power-function averages."""
        return self.path / "checkpoints" / "snapshots"

    @property
    def curve(self) -> Path:
        return self.path / "curve.jsonl"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folders and keep them for this process. Raises DiffxError where they cannot be, or are taken."""
        try:
            for folder in ("checkpoints", "samples"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise DiffxError(f"Another process is training {self.path}; wait for it, or type another seed.") from error
        except OSError as error:
            raise DiffxError(
                f"runs_dir={self.path.parents[2]} cannot be written ({error.strerror}); "
                "type runs_dir= a folder that can be."
            ) from error
        with lock:
            yield
        lock.release(force=True)

    def create(self, settings: str, plan: str) -> None:
        """Write config.yaml and plan.txt."""
        self.write("config.yaml", settings)
        self.write("plan.txt", plan + "\n")

    def write(self, name: str, text: str) -> None:
        """Replace file `name` in one step."""
        with self.writing(self.path / name):
            write_text(self.path / name, text)

    @contextmanager
    def writing(self, file: Path) -> Iterator[None]:
        """Raises DiffxError, in place of the system's error, where a file of this run cannot be written."""
        try:
            yield
        except OSError as error:
            raise DiffxError(
                f"{file} cannot be written ({error.strerror or error}); the last checkpoint is kept. Free some space, "
                "or bring the disk back, and type the same command to go on."
            ) from error

    def read_record(self) -> dict[str, Any]:
        """run.json, or {} before it is written and where it cannot be read: training writes it anew."""
        try:
            record = json.loads((self.path / "run.json").read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            record = None
        if isinstance(record, dict):
            return record
        print(f"{self.path / 'run.json'} cannot be read and counts as not written.", flush=True)
        return {}

    def write_record(self, **facts: Any) -> None:
        """Update run.json by these facts; None forgets one."""
        known = {key: value for key, value in (self.read_record() | facts).items() if value is not None}
        self.write("run.json", json.dumps(known, indent=1) + "\n")

    def append_point(self, point: dict[str, Any], curve: Path | None = None) -> None:
        """One more line of the curve (or of another protocol's), on disk before this returns."""
        path = curve or self.curve
        with self.writing(path), path.open("a") as file:
            file.write(json.dumps(point) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def progress(self) -> list[tuple[int, int]]:
        """Size and time of what training rewrites: another answer means that a process has trained here meanwhile."""
        files = (self.last_checkpoint, self.previous_checkpoint, self.path / "run.json")
        return [(f.stat().st_size, f.stat().st_mtime_ns) if f.exists() else (-1, -1) for f in files]

    def start_anew(self) -> None:
        """Forget an earlier training in this folder, whose user asked for that with resume=never."""
        weights = [*(self.path / "checkpoints").glob("ema*.safetensors"), *self.snapshots.glob("*.safetensors")]
        curves = self.path.glob("curve*.jsonl")
        for file in (self.last_checkpoint, self.previous_checkpoint, *weights, *curves, self.path / "run.json"):
            file.unlink(missing_ok=True)

    def last_point(self, step: int) -> int:
        """The step of the curve's last point up to `step`, -1 if it has none."""
        return max((point["step"] for point in self.points() if point["step"] <= step), default=-1)

    def points(self) -> Iterator[dict[str, Any]]:
        """The points of the curve. A line that is none is said and left out; one that a kill cut short is left out."""
        lines = self.curve.read_bytes().splitlines() if self.curve.exists() else []
        for number, line in enumerate(lines, start=1):
            point = _point(line)
            if point is not None:
                yield point
            elif line.strip() and number < len(lines):
                print(f"{self.curve}: line {number} is no evaluation and is left out.", flush=True)

    def forget_after(self, step: int) -> None:
        """Drop points of the curve beyond `step`, and a line that a kill cut short: a resume makes them again."""
        if not self.curve.exists():
            return
        kept = [point for point in self.points() if point["step"] <= step]
        self.write("curve.jsonl", "".join(json.dumps(point) + "\n" for point in kept))


def _point(line: bytes) -> dict[str, Any] | None:
    """A line of a curve; None where it is no evaluation of a step."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) and type(point.get("step")) is int else None
