"""A folder with a bound, of files that can be fetched again: the least recently used go first."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from diffx.errors import DiffxError

GB = 10**9
SLACK = 0.05  # of the bound: room that is made beyond one file, so that the folder is not listed for each
PATIENCE = 600.0  # seconds that a process waits for room which unfinished files of others take
COUNT = ".held"  # how many bytes are here, at most; listing the folder says it exactly
Content = bytes | memoryview


class _File(NamedTuple):
    used: int
    path: str
    size: int


class BoundedFolder:
    """Files of known sizes, never more than `bound` bytes together, unfinished ones counted as if they were finished.

    Threads and processes share it, each with a bound of its own. A file is written under another name, which is locked
    until the process ends: of several that want it one makes it, and what a killed one has left is removed unread. Any
    finished file may be removed at any moment. Linux keeps what a process has open readable until it is closed, so that
    readers need no lock; they open a file for one read, since its blocks are free only after that.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self.made = 0
        """Bytes that this process has put here."""

    @property
    def capacity(self) -> int:
        """Bytes that are never removed for each other."""
        return int(self.bound * (1 - SLACK))

    @property
    def room(self) -> int:
        """Bytes that the disk has for it, with what is here already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return _listed(self.folder)[0] + shutil.disk_usage(self.folder).free

    def read_into(self, name: str, parts: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill buffers with the bytes at these offsets of a file; False where it is not here. It counts as used."""
        try:
            file = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            _use(file)
            return all(os.preadv(file, [buffer], offset) == buffer.nbytes for offset, buffer in parts)
        finally:
            os.close(file)

    def fill(self, name: str, size: int, make: Callable[[], Content]) -> Path:
        """Make sure that a file is here. It counts as used.

        Args:
            make: its content, `size` bytes; called where it is not here and no other process is making it.

        Raises:
            DiffxError: the bound or the disk is too small, or the folder cannot be written.
        """
        path, unfinished = self.folder / name, self.folder / f".{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._is_there(path, size):
                with _locked(unfinished) as file:
                    if not _is_at(file, unfinished):  # whoever had the lock has moved or removed it
                        continue
                    if self._is_there(path, size):  # moved there since it was looked for
                        unfinished.unlink()
                    else:
                        self._make(file, size, make, unfinished, path)
        except OSError as error:
            raise DiffxError(
                f"The cache {self.folder} cannot be written ({error.strerror or error}); make room there, or type "
                "another data.source.cache=."
            ) from error
        return path

    def _is_there(self, path: Path, size: int) -> bool:
        """It then counts as used, and who is making room sees that."""
        with _locked(self.folder / COUNT), suppress(FileNotFoundError):
            _use(path)
            if path.stat().st_size == size:
                return True
            path.unlink()
        return False

    def _make(self, file: int, size: int, make: Callable[[], Content], unfinished: Path, path: Path) -> None:
        try:
            os.ftruncate(file, 0)
            self._reserve(file, size)
            content = memoryview(make()).cast("B")
            assert content.nbytes == size, f"{path} is to have {size} bytes, and {content.nbytes} were made"
            while content.nbytes:
                content = content[os.write(file, content) :]
            _use(file)
            os.fsync(file)
            with _locked(self.folder / COUNT):  # who lists the folder sees it once
                os.replace(unfinished, path)
                self.made += size
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def _reserve(self, file: int, size: int) -> None:
        """Give an unfinished file its size, once there is room for that."""
        until = time.monotonic() + PATIENCE
        while True:
            with _locked(self.folder / COUNT) as count:
                held, free = _read_count(count), shutil.disk_usage(self.folder).free
                if held is None or held + size > self.bound or size > free:
                    held, free = self._make_room(size)
                if fits := held + size <= self.bound and size <= free:
                    os.posix_fallocate(file, 0, size)
                _write_count(count, held + size * fits)
            if fits:
                return
            if size > min(self.bound, free) or time.monotonic() > until:
                raise DiffxError(
                    f"The cache {self.folder} has no room for {size / GB:.3g} GB: {self.bound / GB:.3g} GB are "
                    f"allowed, {held / GB:.3g} of them in use, and {free / GB:.3g} GB of the disk are free; type more "
                    "data.source.cache_gb=, make room, or type another data.source.cache=."
                )
            time.sleep(0.2)

    def _make_room(self, size: int) -> tuple[int, int]:
        """Remove the least recently used files, as many as has to be; bytes held then, and free on the disk."""
        held, files = _listed(self.folder)
        for file in sorted(files):
            if held + size <= self.capacity and size <= shutil.disk_usage(self.folder).free:
                break
            with suppress(FileNotFoundError):
                os.unlink(file.path)
            held -= file.size
        return held, shutil.disk_usage(self.folder).free


def _listed(folder: Path) -> tuple[int, list[_File]]:
    """Bytes of all files, and those that are finished. What killed processes have left unfinished is removed."""
    held, finished = 0, []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == COUNT or (entry.name.startswith(".") and _is_abandoned(entry.path)):
                continue
            with suppress(FileNotFoundError):
                facts = entry.stat()
                held += facts.st_size
                if not entry.name.startswith("."):
                    finished.append(_File(facts.st_mtime_ns, entry.path, facts.st_size))
    return held, finished


def _is_abandoned(unfinished: str) -> bool:
    """Whether nobody is writing it; it is removed then."""
    try:
        file = os.open(unfinished, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, Path(unfinished)):  # else it was finished meanwhile, and this may be another's by now
            os.unlink(unfinished)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _use(file: int | Path) -> None:
    """Stamp a file with the time: the kernel's own stamps are the same for some milliseconds."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read_count(file: int) -> int | None:
    text = os.pread(file, 32, 0)
    return int(text) if text.strip().isdigit() else None


def _write_count(file: int, value: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, str(value).encode(), 0)
