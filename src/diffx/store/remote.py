"""Files behind a URL (s3, gs, az, hf, http, file, ...), read through fsspec: whole, or in ranges of bytes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import fsspec

from diffx.errors import DiffxError

WAITS = (1.0, 4.0, 16.0)  # seconds before each further try
LOG_IN = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or type `aws configure`",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or type `gcloud auth application-default login`",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN, or type `hf auth login`",
    "http": 'FSSPEC_HTTP=\'{"headers": {"Authorization": "..."}}\'',
}
LOG_IN |= {"s3a": LOG_IN["s3"], "gcs": LOG_IN["gs"], "az": LOG_IN["abfs"], "https": LOG_IN["http"]}
T = TypeVar("T")


class Range(NamedTuple):
    """Bytes [start, stop) of file `name`."""

    name: str
    start: int
    stop: int


def is_url(place: object) -> bool:
    """Whether this names something behind a URL; all else is a path on this machine."""
    return isinstance(place, str) and "://" in place


@dataclass(frozen=True)
class RemotePath:
    """A folder or a file behind a URL, used as a pathlib.Path is. Only the URL is kept, so that it goes to forked and
    spawned processes, each of which opens connections of its own.

    Raises:
        DiffxError: the URL holds a password or a query: it is written into the run's files.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.password or parts.query or (parts.username and self._protocol in ("http", "https")):
            raise DiffxError(
                f"The URL of {self._protocol}://{parts.hostname or ''}{parts.path} holds a password, a token or a "
                "query, which would be written into the run's files; leave it out and log in by "
                f"{LOG_IN.get(self._protocol, 'what its storage asks for')}."
            )

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        """Whether this is a file that can be read; storage that may not be listed refuses what it does not have. Raises
        DiffxError where that cannot be found out."""
        try:
            self._read(lambda files, path: files.cat_file(path, 0, 1))
        except FileNotFoundError:
            return False
        except DiffxError as error:
            if isinstance(cause := error.__cause__, Exception) and _is_refused(cause):
                return False
            raise
        return True

    def read_text(self) -> str:
        """Raises FileNotFoundError, or DiffxError as read_many does."""
        content: bytes = self._read(lambda files, path: files.cat_file(path))
        return content.decode()

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Whole files of this folder, at once where the storage answers so.

        Raises:
            DiffxError: one is not there, access is refused, a package is missing, or all tries have failed.
        """

        def read(files: Any, path: str) -> list[bytes]:
            asked = [f"{path.rstrip('/')}/{name}" for name in names]
            return list(files.cat_ranges(asked, [None] * len(asked), [None] * len(asked), on_error="raise"))

        return self._of_files(names, read)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Bytes of files of this folder. Raises DiffxError as read_many does."""

        def read(files: Any, path: str) -> list[bytes]:
            asked = [f"{path.rstrip('/')}/{part.name}" for part in ranges]
            starts, stops = [part.start for part in ranges], [part.stop for part in ranges]
            found: list[bytes] = files.cat_ranges(asked, starts, stops, on_error="raise")
            for part, content in zip(ranges, found, strict=True):
                file, missing = self / part.name, part.stop - part.start - len(content)
                if missing < 0:
                    raise DiffxError(
                        f"{file}: its server answers no ranges of bytes, which streaming needs; type another."
                    )
                if missing > 0:
                    raise ConnectionError(f"{file} ended {missing} bytes early")
            return found

        return self._of_files([part.name for part in ranges], read)

    def _of_files(self, names: Sequence[str], read: Callable[[Any, str], T]) -> T:
        try:
            return self._read(read)
        except FileNotFoundError as error:
            name = next((name for name in names if name in str(error)), names[0])
            raise DiffxError(f"{self / name} is not there any more; bring it back, and type the same again.") from error

    def _read(self, read: Callable[[Any, str], T]) -> T:
        """What `read` finds, tried anew after WAITS where an error may pass."""
        for wait in (*WAITS, None):
            try:
                return read(*self._files())
            except (FileNotFoundError, IsADirectoryError, DiffxError):
                raise
            except Exception as error:  # every storage has kinds of its own
                if wait is None or _is_final(error):
                    raise self._said(error) from error
                print(f"{self.url}: {_first_line(error)}; trying again in {wait:g} s", flush=True)
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _files(self) -> tuple[Any, str]:
        """The storage, opened once by fsspec for each process and thread, and the path in it."""
        try:
            files, path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise DiffxError(f"{self.url} needs a package that is not here: {_first_line(error)}.") from error
        except ValueError as error:
            raise DiffxError(f"{self.url} cannot be opened: {_first_line(error)}.") from error
        return files, path

    def _said(self, error: Exception) -> DiffxError:
        if _is_refused(error):
            how = LOG_IN.get(self._protocol, "what its storage asks for")
            return DiffxError(f"{self.url} refuses to be read ({_first_line(error)}); log in by {how}.")
        if _is_final(error):
            return DiffxError(f"{self.url} cannot be read ({_first_line(error)}).")
        return DiffxError(f"{self.url} cannot be reached, tried {len(WAITS) + 1} times ({_first_line(error)}).")

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0]


def _is_refused(error: Exception) -> bool:
    """Whether there are no credentials, or wrong ones."""
    named = any(word in type(error).__name__ for word in ("Credential", "Authentication", "Forbidden"))
    return named or isinstance(error, PermissionError) or _status(error) in (401, 403, 407)


def _is_final(error: Exception) -> bool:
    """Whether trying again is useless."""
    never = 400 <= _status(error) < 500 and _status(error) not in (408, 429)
    return never or _is_refused(error) or isinstance(error, TypeError | ValueError | NotImplementedError)


def _status(error: Exception) -> int:
    """That a server has answered with; 0 where it has not."""
    answer = getattr(error, "response", None)
    found = [getattr(error, "status", 0), getattr(error, "code", 0), getattr(answer, "status_code", 0)]
    return next((status for status in found if isinstance(status, int) and status), 0)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
