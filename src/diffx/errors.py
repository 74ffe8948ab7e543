"""Errors that are meant for people: one sentence with the value that is wrong and what to type instead."""


class DiffxError(ValueError):
    """Bad input. The command line prints the message alone and exits with code 2; nothing has been written."""


STOPPED, REQUEUE = 3, 75  # exit codes: saved after a signal; saved, and wants to be started again (EX_TEMPFAIL)


class Stopped(DiffxError):
    """A run was told to end, and has saved. requeue: it wants to be started again (Slurm's SIGUSR1)."""

    def __init__(self, message: str = "", *, requeue: bool) -> None:
        super().__init__(message)
        self.requeue = requeue

    @property
    def exit_code(self) -> int:
        return REQUEUE if self.requeue else STOPPED
