"""Errors that are meant for people: one sentence with the value that is wrong and what to type instead; and strangers'
text, which may stand in one."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

LONGEST = 200  # letters of any text that a run may bring


class DiffxError(ValueError):
    """Bad input. The command line prints the message alone and exits with code 2; nothing has been written."""


class Diverged(DiffxError):
    """Training broke: the guard's limit was reached, or samples or their measures are not finite. That is a result,
    which the run's record keeps. step: where it was noticed."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


STOPPED, REQUEUE = 3, 75  # exit codes: saved after a signal; saved, and wants to be started again (EX_TEMPFAIL)


class Stopped(DiffxError):
    """A run was told to end, and has saved. requeue: it wants to be started again (Slurm's SIGUSR1)."""

    def __init__(self, message: str = "", *, requeue: bool) -> None:
        super().__init__(message)
        self.requeue = requeue

    @property
    def exit_code(self) -> int:
        return REQUEUE if self.requeue else STOPPED


def unknown_key(key: str, known: Sequence[str]) -> str:
    """The sentence for a setting that does not exist, with the nearest ones."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}."
    return f"{key} is not a setting; {hint}"


@contextmanager
def naming(name: str, doing: str) -> Iterator[None]:
    """Whatever a plugin raises inside this block ends as a sentence with its name; a DiffxError is one already."""
    try:
        yield
    except DiffxError:
        raise
    except Exception as error:
        raise DiffxError(f"plugins.{name} failed {doing}: {describe_error(error)}.") from error


def describe_error(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0].rstrip('.')}"


def name_culprit(error: Exception, plugins: Mapping[str, object]) -> str | None:
    """The plugin whose own code an error came out of, the innermost one; None where it was none's."""
    found, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = next((name for name, plugin in plugins.items() if plugin is owner), found)
        trace = trace.tb_next
    return found


def clean_text(text: str, longest: int = LONGEST) -> str:
    """A stranger's text without what acts on a terminal or breaks a file (controls, lone surrogates), cut to a
    length."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
