"""A real HTTP server on this machine that misbehaves as told, and a store of its own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdxl.core.errors import OK
from sdxl.model.download import command as download
from sdxl.model.download import http as fetch
from tests.conftest import ROOT

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def shared() -> Path:
    """The real MLPerf files, where the project's shared data lies beside the checkout."""
    folder = ROOT.parent / "shared" / "data" / "mlperf"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAIT_S", 0.01)
    monkeypatch.setattr(fetch, "TIMEOUT_S", 2.0)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@dataclass
class Server:
    """What the server offers, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes sent before each coming cut
    errors: list[int] = field(default_factory=list)  # statuses of the coming answers
    etag: str = '"one"'
    ranges: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append({"path": self.path, **dict(self.headers)})
            content = state.files.get(self.path)
            if state.errors:
                return self.refuse(state.errors.pop(0))
            if content is None:
                return self.refuse(404)
            start = self.start()
            if start and start >= len(content):
                return self.refuse(416, f"bytes */{len(content)}")
            self.send_response(206 if start else 200)
            if start:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", state.etag)
            self.end_headers()
            body = content[start:]
            if state.cuts:
                body = body[: state.cuts.pop(0)]
                self.close_connection = True
            self.wfile.write(body)
            return None

        def start(self) -> int:
            asked = self.headers.get("Range")
            same = self.headers.get("If-Range", state.etag) == state.etag
            if not asked or not same or not state.ranges:
                return 0
            return int(asked.removeprefix("bytes=").split("-")[0])

        def refuse(self, status: int, extent: str = "") -> None:
            self.send_response(status)
            if extent:
                self.send_header("Content-Range", extent)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield state
    http.shutdown()
    http.server_close()


Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[dict[str, Any]]], Command]:
    """The command on a catalogue of one target, `thing`."""

    def with_files(files: list[dict[str, Any]]) -> Command:
        entry = {
            "what": "a thing", "licence": "none", "use": "it", "files": files,
            "offline": "copy the thing to {store}/things", "own": "keep your own",
        }  # fmt: skip
        catalogue = tmp_path / "catalogue.yaml"
        catalogue.write_text(yaml.safe_dump({"targets": {"thing": entry}}))

        def run(*words: str) -> tuple[int, dict[str, Any], str]:
            code = download.main(["thing", *words], catalogue)
            captured = capsys.readouterr()
            outcome = json.loads(captured.out.splitlines()[-1])
            assert outcome["exit_code"] == code
            assert (outcome["status"] == "ok") == (code == OK)
            return code, outcome, captured.err

        return run

    return with_files


def offered(server: Server, name: str = "a.bin", content: bytes = CONTENT) -> dict[str, Any]:
    server.files.setdefault(f"/{name}", content)
    return {
        "path": f"things/{name}",
        "urls": [f"{server.url}/{name}"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def left(root: Path) -> list[str]:
    folder = root / "things"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []
