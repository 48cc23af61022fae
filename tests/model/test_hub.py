"""Weights named by their repository, from a hub on this machine that speaks as the real one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

COMMIT = "462165984030d82259a11f4367a4eed129e94a7b"
REPO = "someone/some-sdxl"


@dataclass
class Hub:
    """The files of a repository, and what the hub was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            state.asked.append(f"{self.command} {path}")
            name = path.partition(f"/{REPO}/resolve/{COMMIT}/")[2]
            if name in state.files:
                return self.send(state.files[name])
            if path.startswith(f"/api/models/{REPO}/tree/"):
                tree = [{"type": "file", "path": name, "size": len(content), "oid": oid(content)}
                        for name, content in state.files.items()]  # fmt: skip
                return self.send(json.dumps(tree).encode())
            if path.startswith(f"/api/models/{REPO}"):
                siblings = [{"rfilename": name} for name in state.files]
                about = {"id": REPO, "sha": COMMIT, "siblings": siblings}
                return self.send(json.dumps(about).encode())
            return self.send(b"not found", 404)

        do_HEAD = do_GET  # noqa: N815 (the library's name)

        def send(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{oid(content)}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()


def oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def fetched(hub: Hub, home: Path, variant: str | None = None) -> dict[str, bytes]:
    """What lies in the folder that the model is read from, in a process of its own."""
    code = (
        "from sdxl.config.schema import SdxlModel\n"
        "from sdxl.model.weights import WeightSource\n"
        f"print(WeightSource(SdxlModel(name='sdxl', path={REPO!r}, variant={variant!r})).folder)"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
           "HF_HUB_DISABLE_XET": "1", "no_proxy": "*"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_variants_files_and_no_others_come_from_the_hub(hub, tmp_path):
    plain = {
        "model_index.json": b"{}", "unet/config.json": b"{}", "tokenizer/merges.txt": b"a b",
        "unet/diffusion_pytorch_model.safetensors": b"unet" * 999,
    }  # fmt: skip
    half = {"unet/diffusion_pytorch_model.fp16.safetensors": b"half" * 999}
    hub.files = {**plain, **half, "sd_xl_base_1.0.safetensors": b"whole", "readme.png": b"x"}
    assert fetched(hub, tmp_path / "one") == plain
    count = len(hub.asked)
    assert fetched(hub, tmp_path / "one") == plain
    assert len(hub.asked) == count, "what is in the cache is not asked for again"
    both = fetched(hub, tmp_path / "two", "fp16")
    assert both == {**{name: plain[name] for name in list(plain)[:3]}, **half}


def test_a_hub_name_without_a_network_is_told_within_seconds(cli):
    import time

    began = time.monotonic()
    done = cli("model=sdxl", "precision=fp16", "model.path=someone/some-sdxl",
               env={"HF_ENDPOINT": "http://127.0.0.1:9"})  # fmt: skip
    assert time.monotonic() - began < 60
    assert done.code == 2, done.err
    assert "neither here nor to be had from the hub" in done.err
    assert "model.path=FOLDER" in done.err and "Traceback" not in done.err


UNET = "unet/diffusion_pytorch_model.safetensors"
SHARDS = "unet/diffusion_pytorch_model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("variant", "wanted", "unwanted"),
    [
        (None, [UNET, SHARDS], ["unet/diffusion_pytorch_model.fp16.safetensors"]),
        ("fp16", ["unet/diffusion_pytorch_model.fp16.safetensors"], [UNET]),
    ],
)
def test_the_hub_is_asked_only_for_what_is_used(variant, wanted, unwanted):
    from huggingface_hub.utils import filter_repo_objects

    from sdxl.model import locate

    files = ["model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt", *wanted]
    extra = ["sd_xl_base_1.0.safetensors", "unet/model.onnx", "unet/diffusion_pytorch_model.bin"]
    patterns = locate.hub_patterns(variant)
    found = set(filter_repo_objects([*files, *unwanted, *extra], allow_patterns=patterns))
    assert found == set(files)
