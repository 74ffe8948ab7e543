"""Work that goes on beside the caller's, one piece at a time, and that the process does not end without."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Later:
    """One thread, begun with the first piece of work and joined by the interpreter before it ends."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._work: Future[None] | None = None
        self._clock = 0

    def do(self, work: Callable[[], None]) -> None:
        """Begin `work`, once that before it is done. Raises what that raised."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "later")
            self._clock = self._pool.submit(lambda: time.pthread_getcpuclockid(threading.get_ident())).result()
        self._work = self._pool.submit(work)

    def check(self) -> None:
        """Raises what the work raised, if it has ended; waits for nothing."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Until the work is done. Raises what it raised, once."""
        work, self._work = self._work, None
        if work is not None:
            try:
                work.result()
            except BaseException:
                if not work.done():  # the wait was interrupted, and not the work
                    self._work = work
                raise

    def seconds(self) -> float:
        """Processor time of the thread so far."""
        return time.clock_gettime(self._clock) if self._pool else 0.0
