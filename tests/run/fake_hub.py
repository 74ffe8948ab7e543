"""A Hugging Face Hub of one process: the requests of huggingface_hub's create, commit, list and download."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
TOKEN = "hf_writer"


class FakeHub(ThreadingHTTPServer):
    """`files`: of each repository, by path. `created`: what it was asked to create, and for whose eyes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        _, api, *rest = urlsplit(self.path).path.split("/")
        assert api == "api"
        if rest == ["validate-yaml"]:
            return self.answer(b'{"errors": [], "warnings": []}')
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(b"{}", 403)
        if rest == ["repos", "create"]:
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            self.server.created.append((name, "private" if private else "public"))
            self.server.files.setdefault(name, {})
            return self.answer(json.dumps({"url": f"{self.server.address}/{name}"}).encode())
        _, user, name, what, _ = rest
        if what == "preupload":
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for one in json.loads(sent)["files"]]  # fmt: skip
            return self.answer(json.dumps({"files": files}).encode())
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.files[f"{user}/{name}"][line["value"]["path"]] = content
        url = f"{self.server.address}/{user}/{name}/commit/{COMMIT}"
        return self.answer(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").removeprefix("api/models/")
        user, name, *rest = path.split("/")
        files = self.server.files.get(f"{user}/{name}")
        if files is None:
            return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        if rest[:1] == ["tree"]:
            found = [{"type": "file", "path": p, "oid": f"{len(p):040d}", "size": len(c)} for p, c in files.items()]
            return self.answer(json.dumps(found).encode())
        if rest[:1] == ["resolve"]:
            content = files["/".join(rest[2:])]
            return self.answer(content, ETag=f'"{len(content):040d}"', X_Repo_Commit=COMMIT)
        return self.answer(json.dumps({"id": f"{user}/{name}", "sha": COMMIT, "siblings": []}).encode())

    do_HEAD = do_GET


@contextmanager
def serving() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
