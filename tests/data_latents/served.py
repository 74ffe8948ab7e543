"""A folder behind a URL, served from this process as object storage answers: whole files and ranges of bytes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[str, bytes], tuple[int, bytes, int]]
"""What to send in place of an answer of status 200 or 206: status, content, and the length that is announced."""


def as_it_is(name: str, content: bytes) -> tuple[int, bytes, int]:
    return 206, content, len(content)


class Served:
    """url: of the folder. asked: the paths that were asked for. answer: what a test puts in the way."""

    def __init__(self, url: str) -> None:
        self.url, self.asked, self.answer, self.ranges = url, list[str](), as_it_is, True


class _Handler(BaseHTTPRequestHandler):
    wbufsize = -1  # head and content in one packet: else each answer waits 40 ms for the other side

    def __init__(self, folder: Path, served: Served, *args: object) -> None:
        self.folder, self.served = folder, served
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.served.asked.append(self.path)
        file = self.folder / self.path.lstrip("/")
        there, asked = file.is_file(), self.headers["Range"]
        content = file.read_bytes() if there else b""
        if asked and self.served.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        status, content, length = self.served.answer(self.path, content)
        if status == 206:
            status = 404 if not there else 206 if asked else 200
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing: tests look at `asked`."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # more than are asked for at once: else some wait for a second


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    served = Served("")
    server = _Server(("127.0.0.1", 0), partial(_Handler, folder, served))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
