"""Prepared data behind a URL: samples are mixed in windows, and the rows of a window are fetched before it begins.

An order that visits all shards at random would need all of them here. So an epoch is cut into windows: groups of GROUP
neighbouring samples are dealt to them at random, and the samples of a window are mixed. Groups, and not shards: shards
hold samples sorted by key, so that a few of them would be a few classes. Of each folder (latents, images, features,
text) a group is the rows that are joined to its samples, wherever they stand; in folders that were prepared together
these are neighbours too, and one range of bytes. The order is made of seed and epoch alone, so that resuming needs no
state.
"""

import itertools
import math
import queue
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffx import ranks
from diffx.data.batches import StepBatches
from diffx.data.shards import Rows
from diffx.errors import DiffxError
from diffx.store.bounded import GB, BoundedFolder
from diffx.store.digest import digest

GROUP = 64
"""Neighbours that are fetched together: 1 MB of SD-VAE's latents, 13 MB of images at 256 px. Part of the order."""

THREADS, IN_FLIGHT = 8, 2**28  # fetch at once; bytes that they hold together


class Joined:
    """The rows of one folder in the order of a data set's samples.

    Args:
        shards: the folder. rows: of each sample, as `join` found them. kept: where rows behind a URL are kept.
    """

    def __init__(self, shards: Rows, rows: NDArray[np.int64], kept: BoundedFolder | None) -> None:
        self.shards, self.rows, self.kept = shards, rows, kept
        of = {"folder": str(shards.folder), "checksum": shards.manifest.get("checksum"), "rows": zlib.crc32(rows.data)}
        self._name = f"{shards.folder.name}-{digest(of)}"

    def read(self, place: NDArray[np.int64]) -> NDArray[np.generic]:
        """Rows of the samples at these places: from kept groups, and what of them is not there from the URL."""
        if self.kept is None:
            return self.shards.read(self.rows[place])
        out = np.empty((len(place), *self.shards.shape), self.shards.dtype)
        whole, groups = out.reshape(len(out), math.prod(self.shards.shape)).view(np.uint8), place // GROUP
        missing: list[int] = []
        for group in np.unique(groups).tolist():
            chosen = np.flatnonzero(groups == group).tolist()
            parts = [(int(place[i]) % GROUP * self.shards.row_bytes, whole[i].data) for i in chosen]
            if not self.kept.read_into(f"{self._name}-{group}", parts):
                missing += chosen
        if missing:
            out[missing] = self.shards.read(self.rows[place[missing]])
        return out

    def fetch(self, group: int) -> None:
        """Keep the rows of a group. Raises DiffxError as `RemoteShards.read` and `BoundedFolder.fill` do."""
        assert self.kept is not None
        rows = self.rows[group * GROUP : (group + 1) * GROUP]
        self.kept.fill(f"{self._name}-{group}", len(rows) * self.shards.row_bytes, lambda: self._bytes(rows))

    def use(self, group: int) -> None:
        """Have the rows of a group count as used, if they are kept."""
        if self.kept is not None:
            self.kept.read_into(f"{self._name}-{group}", [])

    def _bytes(self, rows: NDArray[np.int64]) -> memoryview:
        return self.shards.read(rows).reshape(-1).view(np.uint8).data


class Window(NamedTuple):
    """Samples that are mixed: those at [start, stop) of the endless row of epochs, and the groups that they are."""

    start: int
    stop: int
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """A data set in windows.

    samples: of one side. sides: of each side (the images, and the mirrored ones where those are trained on too) what a
    sample is made of; each side's samples are numbered after those before it. window: how many samples are mixed, in
    whole groups; all that there are, and the order is `permutation`.
    """

    samples: int
    sides: Sequence[Sequence[Joined]]
    window: int

    def __len__(self) -> int:
        return self.samples * len(self.sides)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Of one epoch, int64 (len,)."""
        keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(len(self))
        windows = np.repeat(self._window_of_groups(seed, epoch), self._sizes)
        return torch.from_numpy(np.lexsort((keys, windows)))

    def windows_from(self, position: int, seed: int) -> Iterator[Window]:
        """The windows of all epochs, from that on which holds a position of the endless row."""
        for epoch in itertools.count(position // len(self)):
            of, stop = self._window_of_groups(seed, epoch), epoch * len(self)
            for number in range(self._count):
                groups = np.flatnonzero(of == number)
                start, stop = stop, stop + int(self._sizes[groups].sum())
                if stop > position:
                    yield Window(start, stop, groups)

    def check_room(self, batch_size: int) -> None:
        """Raises DiffxError where the cache cannot hold what is read and what is read next, or a batch is larger than
        a window."""
        if self.window < batch_size and self._count > 1:
            raise DiffxError(f"data.source.window={self.window} is less than a batch; type {batch_size} or more.")
        if (kept := self._kept) is not None and self.bytes_at_once > kept.capacity:
            enough = int(self.bytes_at_once / kept.capacity * kept.bound / GB) + 1
            fits = int(self.window * kept.capacity / self.bytes_at_once / GROUP) * GROUP
            smaller = f", or data.source.window={fits}, which mixes fewer samples" if fits >= batch_size else ""
            raise DiffxError(
                f"A cache of {kept.bound / GB:.3g} GB is too small for {self._held} of {self.window:,} samples, "
                f"{self.bytes_at_once / GB:.3g} GB; type data.source.cache_gb={enough}{smaller}."
            )
        if kept is not None and self.bytes_at_once > kept.room:
            raise DiffxError(
                f"The disk of {kept.folder} has room for {kept.room / GB:.3g} GB, and {self._held} of {self.window:,} "
                f"samples take {self.bytes_at_once / GB:.3g} GB; make room, or type data.source.cache= and a folder on "
                "another disk, or a smaller data.source.window=."
            )

    @property
    def bytes_at_once(self) -> int:
        """That have to be kept at once: of two windows, or of all samples where those are less."""
        groups = min(self._windows_held * -(-len(self._sizes) // self._count), len(self._sizes))
        return groups * GROUP * sum(part.shards.row_bytes for part in self.sides[0])

    @property
    def fetched(self) -> int:
        """Bytes that this process has fetched into the cache."""
        return self._kept.made if self._kept else 0

    @property
    def source(self) -> str:
        """Where the data set is."""
        return str(self.sides[0][0].shards.folder.parent)

    def describe(self) -> str:
        """In a line."""
        if (kept := self._kept) is None:
            return f"reads {self.source} in {self._count} windows of {self.window:,} samples"
        return (
            f"streams {self.source}: {self._count} windows of {self.window:,} samples; {self._held} take "
            f"{self.bytes_at_once / GB:.3g} GB, and {kept.folder} holds at most {kept.bound / GB:.3g} GB"
        )

    def ahead(self, batches: StepBatches, lag: int) -> "Ahead":
        """The same batches, each once its window is here."""
        return Ahead(self, batches, lag)

    def fetching(self, window: Window) -> "Fetching":
        """Begin to fetch a window. Ranks begin at different groups, so that those of one node share the work."""
        work = self._parts(np.roll(window.groups, -len(window.groups) * ranks.rank() // ranks.world()))
        largest = max(part.shards.row_bytes for side in self.sides for part in side) * GROUP
        return Fetching(work, max(1, min(THREADS, IN_FLIGHT // largest)))

    def use(self, window: Window) -> None:
        """Have a window count as used, all of it, so that those before it make room first."""
        for part, group in self._parts(window.groups):
            part.use(group)

    def _parts(self, groups: NDArray[np.int64]) -> list[tuple[Joined, int]]:
        each = self._groups_of_a_side
        return [(part, group % each) for group in groups.tolist() for part in self.sides[group // each]]

    @property
    def is_remote(self) -> bool:
        return self._kept is not None

    @property
    def _kept(self) -> BoundedFolder | None:
        return self.sides[0][0].kept

    @property
    def _held(self) -> str:
        return "two windows" if self._windows_held == 2 else "all samples"

    @property
    def _windows_held(self) -> int:
        return min(2, self._count)

    @property
    def _groups_of_a_side(self) -> int:
        return -(-self.samples // GROUP)

    @property
    def _count(self) -> int:
        """Of windows in an epoch."""
        return -(-len(self._sizes) // -(-self.window // GROUP))

    @property
    def _sizes(self) -> NDArray[np.int64]:
        """Samples of each group: a side's last may be smaller."""
        side = np.full(self._groups_of_a_side, GROUP)
        side[-1] = self.samples - GROUP * (len(side) - 1)
        return np.tile(side, len(self.sides))

    def _window_of_groups(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Which window of an epoch each group is in, equally many in each. The numbers are of the same key as those of
        the samples, but far behind them."""
        of = np.random.Philox(counter=np.array([0, 0, 0, 1], np.uint64), key=np.array([seed, epoch], np.uint64))
        places = np.argsort(np.argsort(of.random_raw(len(self._sizes)), kind="stable"))
        return places * self._count // len(places)


def stream_of(data: object) -> Stream | None:
    """How a data set comes in windows; None where any order will do, as in memory."""
    return getattr(data, "stream", None)


@dataclass(frozen=True)
class Ahead:
    """Batches of a stream. The next window is fetched beside the training, from `lag` batches after the current one
    has begun: when none that is still being read comes from the one before, whose rows make room."""

    stream: Stream
    batches: StepBatches
    lag: int

    def __iter__(self) -> Iterator[Tensor]:
        size, parts, start = self.batches.batch_size, self.batches.parts, self.batches.start
        windows = self.stream.windows_from(start * size, self.batches.seed)
        if ranks.is_first():
            print(f"{self.stream.describe()}; fetching the first", flush=True)
        current, following, begun = next(windows), None, 0
        fetching = self.stream.fetching(current)
        try:
            fetching.wait()
            for item, indices in enumerate(self.batches):
                while current.stop < (start + item // parts + 1) * size:
                    current, begun = following or next(windows), item
                    fetching = fetching if following else self.stream.fetching(current)
                    fetching.wait()
                    following = None
                if following is None and item - begun >= self.lag:
                    following = next(windows)
                    self.stream.use(current)
                    fetching = self.stream.fetching(following)
                yield indices
        finally:
            fetching.stop()


class Fetching:
    """Groups that are being fetched, by threads that end with the process."""

    def __init__(self, work: Sequence[tuple[Joined, int]], threads: int) -> None:
        self._left: queue.SimpleQueue[tuple[Joined, int]] = queue.SimpleQueue()
        for one in work:
            self._left.put(one)
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, name="fetch", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Until all are here. Raises what fetching one has raised."""
        for thread in self._threads:
            thread.join()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # else it holds its own traceback, and with that the loader's workers, which then never end

    def stop(self) -> None:
        """Fetch none but those in hand."""
        while not self._left.empty():
            try:
                self._left.get_nowait()
            except queue.Empty:
                return

    def _work(self) -> None:
        while True:
            try:
                part, group = self._left.get_nowait()
                part.fetch(group)
            except queue.Empty:
                return
            except BaseException as error:
                self._error = error
                self.stop()
                return
