"""`python -m sdxl.download` against a real HTTP server on this machine; no outside network."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sdxl import download, fetch, latents, prompts, published
from sdxl.errors import FAILED, OK, USER, UserError

ROOT = Path(__file__).resolve().parents[1]
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


def _entry(server: Server, name: str = "a.bin", content: bytes = CONTENT) -> dict[str, Any]:
    server.files.setdefault(f"/{name}", content)
    return {
        "path": f"things/{name}",
        "urls": [f"{server.url}/{name}"],
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _left(root: Path) -> list[str]:
    folder = root / "things"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_a_file_is_fetched_and_then_recognised(server, command, root):
    run = command([_entry(server)])
    code, outcome, told = run()
    assert code == OK
    assert outcome["files"] == [
        {"path": str(root / "things/a.bin"), "state": "fetched", "bytes": len(CONTENT)}
    ]
    assert (root / "things/a.bin").read_bytes() == CONTENT
    assert _left(root) == ["a.bin"]
    assert "licence: none" in told

    code, outcome, _ = run()
    assert code == OK
    assert outcome["files"][0]["state"] == "there"
    assert len(server.asked) == 1


def test_a_damaged_file_in_the_store_is_replaced(server, command, root):
    run = command([_entry(server)])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin").write_bytes(CONTENT[:-1] + b"x")
    code, outcome, told = run()
    assert code == OK
    assert outcome["files"][0]["state"] == "fetched"
    assert "is replaced: sha256" in told


def test_cut_connections_are_resumed_where_they_broke(server, command, root):
    server.cuts = [100_000, 0, 300_000]
    code, _, _ = command([_entry(server)])()
    assert code == OK
    assert (root / "things/a.bin").read_bytes() == CONTENT
    ranges = [asked.get("Range") for asked in server.asked]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=400000-"]
    assert server.asked[1]["If-Range"] == '"one"'


def test_a_connection_that_never_gets_on_is_resumed_by_the_next_call(server, command, root):
    run = command([_entry(server)])
    server.cuts = [1000, *[0] * fetch.ATTEMPTS]
    code, outcome, told = run()
    assert code == FAILED
    assert "keeps breaking off" in outcome["reason"]
    assert "1,000 bytes" in told
    assert _left(root) == ["a.bin.part", "a.bin.part.etag"]

    server.cuts = []
    assert run()[0] == OK
    assert server.asked[-1]["Range"] == "bytes=1000-"
    assert _left(root) == ["a.bin"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server, command, root):
    run = command([_entry(server)])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin.part").write_bytes(b"of an older file")
    (root / "things/a.bin.part.etag").write_text('"zero"')
    assert run()[0] == OK
    assert server.asked[0]["If-Range"] == '"zero"'
    assert (root / "things/a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it(server, command, root):
    server.ranges, server.etag, server.cuts = False, 'W/"weak"', [5000]
    assert command([_entry(server)])()[0] == OK
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=5000-"]
    assert "If-Range" not in server.asked[1]
    assert (root / "things/a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_of_full_length_or_longer(server, command, root, extra):
    entry = _entry(server)
    del entry["bytes"]  # as for a file of unknown size
    run = command([entry])
    (root / "things").mkdir(parents=True)
    (root / "things/a.bin.part").write_bytes(CONTENT + extra)
    assert run()[0] == OK
    assert len(server.asked) == (2 if extra else 1)
    assert (root / "things/a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_part(server, command, root):
    entry = _entry(server)
    server.files["/a.bin"] = CONTENT[::-1]
    code, outcome, told = command([entry])()
    assert code == FAILED
    assert "is not the file" in outcome["reason"]
    assert entry["sha256"] in told
    assert f"copy the thing to {root}/things" in told
    assert _left(root) == []


def test_a_file_of_another_size_is_not_even_fetched(server, command, root):
    entry = _entry(server)
    server.files["/a.bin"] = b"<html>sign in to the network</html>"
    code, _, told = command([entry])()
    assert code == FAILED
    assert "35 bytes are offered, the file has 1,048,576" in told
    assert _left(root) == []


def test_a_missing_file_names_the_address_and_the_way_out(server, command, root):
    entry = _entry(server)
    server.files.clear()
    code, outcome, told = command([entry])()
    assert code == FAILED
    assert f"{server.url}/a.bin: HTTP 404" in told
    assert f"copy the thing to {root}/things" in told
    assert "python -m sdxl.download thing --from PATH" in told
    assert len(server.asked) == 1
    assert outcome["files"] == []


def test_the_second_address_is_tried(server, command):
    entry = _entry(server)
    entry["urls"].insert(0, f"{server.url}/moved.bin")
    assert command([entry])()[0] == OK
    assert [asked["path"] for asked in server.asked] == ["/moved.bin", "/a.bin"]


def test_a_busy_server_is_asked_again(server, command):
    server.errors = [503, 429]
    assert command([_entry(server)])()[0] == OK
    server.errors = [500] * fetch.ATTEMPTS
    code, _, told = command([_entry(server, "b.bin")])()
    assert code == FAILED
    assert "HTTP 500" in told


def test_offline_is_one_message_that_says_what_to_copy_where(command, root):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [
        {"path": f"things/{name}", "urls": [f"http://127.0.0.1:{port}/{name}"]} for name in "abcde"
    ]
    code, outcome, told = command(files)()
    assert code == USER
    assert told.count("cannot be reached") == 1
    assert f"127.0.0.1:{port} cannot be reached: Connection refused" in told
    assert f"copy the thing to {root}/things" in told
    assert f"http://127.0.0.1:{port}/a" in told
    assert "and 2 more files" in told
    assert told.count("fetching") == 1  # a silent host is waited for once
    assert outcome["reason"].startswith("127.0.0.1")


def test_a_host_that_swallows_everything_is_not_waited_for(command, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.2)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a"
        code, _, told = command([{"path": "things/a", "urls": [url]}])()
    assert code == USER
    assert "no answer for 0.2 s" in told


def test_the_other_files_are_fetched_when_one_fails(server, command, root):
    files = [_entry(server, "a.bin"), _entry(server, "b.bin")]
    del server.files["/a.bin"]
    code, outcome, _ = command(files)()
    assert code == FAILED
    assert [Path(file["path"]).name for file in outcome["files"]] == ["b.bin"]
    assert _left(root) == ["b.bin"]


def test_interrupted_leaves_a_part_to_resume(server, command, root, monkeypatch):
    run = command([_entry(server)])
    blocks = [b"x" * 10]

    def read(answer: Any) -> bytes:
        if blocks:
            return blocks.pop()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_read", read)
        code, outcome, told = run()
    assert (code, outcome["reason"]) == (FAILED, "interrupted")
    assert "goes on from here" in told
    assert (root / "things/a.bin.part").read_bytes() == b"x" * 10


def test_a_disk_too_small_is_said_before_the_download(server, command, root, monkeypatch):
    usage = shutil.disk_usage(root.parent)._replace(free=1000)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
    code, _, told = command([_entry(server)])()
    assert code == FAILED
    assert "no space left on the disk" in told
    assert _left(root) == []


def test_a_disk_that_fills_up(server, command, monkeypatch):
    def full(answer: Any) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch, "_read", full)
    code, outcome, _ = command([_entry(server)])()
    assert code == FAILED
    assert "no space left" in outcome["reason"]


def test_a_store_that_cannot_be_written(server, command, root):
    root.write_text("a file in the way")
    code, _, told = command([_entry(server)])()
    assert code == USER
    assert "cannot be written" in told
    assert "SDXL_STORE=FOLDER" in told


def test_two_processes_take_turns(server, command, root):
    lock = root / "tmp" / "download-thing.lock"
    lock.parent.mkdir(parents=True)
    hold = f"import filelock, time; held = filelock.FileLock({str(lock)!r}); held.acquire()"
    wait = "print(1, flush=True); time.sleep(0.5)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; {wait}"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        code, _, told = command([_entry(server)])()
    assert code == OK
    assert "another process is at it" in told


def test_only_web_addresses(command, tmp_path):
    code, _, told = command([{"path": "things/a", "urls": [f"file://{tmp_path}/a"]}])()
    assert code == USER
    assert "is no web address" in told


def test_from_a_file_and_from_a_folder(server, command, root, tmp_path):
    files = [_entry(server, "a.bin"), _entry(server, "b.bin", b"b" * 10)]
    files[1]["aliases"] = ["deep/other.bin"]
    run = command(files)
    folder = tmp_path / "usb"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    code, outcome, _ = run("--from", str(folder / "a.bin"))
    assert (code, [file["state"] for file in outcome["files"]]) == (OK, ["copied"])

    code, _, told = run("--from", str(folder))
    assert code == USER
    assert "lacks files of `thing`" in told
    assert "b.bin" in told

    (folder / "deep/other.bin").write_bytes(b"b" * 10)
    code, outcome, _ = run("--from", str(folder))
    assert (code, [file["state"] for file in outcome["files"]]) == (OK, ["there", "copied"])
    assert (root / "things/b.bin").read_bytes() == b"b" * 10
    assert server.asked == []


def test_from_a_wrong_file(server, command, root, tmp_path):
    run = command([_entry(server)])
    wrong = tmp_path / "a.bin"
    wrong.write_bytes(CONTENT[::-1])
    code, _, told = run("--from", str(wrong))
    assert code == USER
    assert f"{wrong} is not a.bin as it was published" in told
    assert "keep your own" in told
    assert _left(root) == []
    code, _, told = run("--from", str(tmp_path / "nowhere"))
    assert code == USER
    assert "does not exist" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cocoa"], "did you mean `coco`?"),
        ([], "arguments are required"),
        (["coco", "--variant", "fp16"], "`--variant` would be ignored"),
        (["coco", "--form", "x"], "unrecognized arguments"),
    ],
)
def test_mistakes_on_the_command_line(root, capsys, words, said):
    assert download.main(words) == USER
    captured = capsys.readouterr()
    assert said in captured.err
    assert json.loads(captured.out)["exit_code"] == USER


def test_as_a_command_ends_with_json(root):
    done = subprocess.run(
        [sys.executable, "-m", "sdxl.download", "latents"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == OK, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["files"][0]["state"] == "made"


def test_the_catalogue_is_complete():
    targets = published.load()
    assert list(targets) == ["sdxl", "coco", "calibration", "latents", "metrics"]
    for target in targets.values():
        for file in target.files + [each for one in target.files for each in one.inputs]:
            assert file.urls or file.make
            sums = [getattr(file, kind) for kind in published.DIGESTS]
            assert any(sums), file.path
            assert all(len(one) in (40, 64) for one in sums if one)
        target.offline.format(store="x")
    weights = [file for file in targets["sdxl"].files if file.variant]
    assert len({file.path for file in weights}) == 8
    sizes = {v: sum(f.bytes or 0 for f in weights if f.variant == v) for v in ("fp32", "fp16")}
    assert 13.8e9 < sizes["fp32"] < 13.9e9
    assert sizes["fp32"] == pytest.approx(2 * sizes["fp16"], rel=1e-3)


def test_sdxl_variants_and_mirror(root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.test")
    target = published.load()["sdxl"]
    assert target.files[0].urls[0].startswith("http://mirror.test/stabilityai/")
    names = [file.inner for file in download._wanted("sdxl", target, None, "fp16")]
    assert len(names) == 18
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "unet/diffusion_pytorch_model.safetensors" not in names
    assert "unet/config.json" in names


def test_git_blob_checksum(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"hello\n")
    named = published.File("things/x", git_blob_sha1="ce013625030ba8dba906f756967f9e9ca394464a")
    assert named.problem(file) is None
    file.write_bytes(b"hullo\n")
    assert "git_blob_sha1" in str(named.problem(file))


def _annotations(path: Path, rows: list[list[str]]) -> None:
    """COCO's annotations as a zip, with the rows' captions in disorder and more beside them."""
    facts = [dict(zip(published.COLUMNS, row, strict=True)) for row in rows]
    images = {
        int(fact["image_id"]): {
            "id": int(fact["image_id"]), "file_name": fact["file_name"],
            "height": int(fact["height"]), "width": int(fact["width"]), "coco_url": "http://x",
        }
        for fact in facts
    }  # fmt: skip
    captions = [
        {"id": int(f["id"]), "image_id": int(f["image_id"]), "caption": f" {f['caption']}\n"}
        for f in reversed(facts)
    ]
    other = {"id": 10**7, "image_id": captions[0]["image_id"], "caption": "another"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        content = {"images": list(images.values()), "annotations": [other, *captions]}
        archive.writestr(published.ANNOTATIONS, json.dumps(content))
        archive.writestr("annotations/instances_train2014.json", "{}")


ROWS = [
    ["7", "70", 'A "red" bus, late.', "480", "640", "COCO_train2014_000000000070.jpg"],
    ["12", "50", "Two dogs\ton grass", "375", "500", "COCO_train2014_000000000050.jpg"],
    ["300", "70", "The bus again", "480", "640", "COCO_train2014_000000000070.jpg"],
]


def _calibration(server: Server, tmp_path: Path) -> dict[str, Any]:
    """A catalogue entry like the real one, over three captions."""
    _annotations(tmp_path / "made.zip", ROWS)
    ids = "7\n12\n300"
    server.files |= {"/c.zip": (tmp_path / "made.zip").read_bytes(), "/ids.txt": ids.encode()}
    digest = hashlib.sha256(ids.encode()).hexdigest()
    archive = _entry(server, "c.zip", server.files["/c.zip"])
    listed = {"path": "things/ids.txt", "urls": [f"{server.url}/ids.txt"], "ids_sha256": digest}
    made = {"path": "things/c.tsv", "make": "calibration", "ids_sha256": digest}
    return {**made, "inputs": [archive, listed]}


def test_calibration_is_made_of_the_annotations(server, command, root, tmp_path):
    run = command([_calibration(server, tmp_path)])
    code, outcome, _ = run()
    assert (code, outcome["files"][0]["state"]) == (OK, "made")
    with (root / "things/c.tsv").open(newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [list(published.COLUMNS), *ROWS]
    assert prompts.read_tsv(root / "things/c.tsv", "x")[0] == ('A "red" bus, late.', "7")
    assert _left(root) == ["c.tsv", "c.zip", "ids.txt"]
    assert run()[1]["files"][0]["state"] == "there"


def test_calibration_from_local_files(server, command, root, tmp_path):
    run = command([_calibration(server, tmp_path)])
    usb = tmp_path / "usb"
    usb.mkdir()
    code, _, told = run("--from", str(usb))
    assert code == USER
    assert "lacks files" in told

    (usb / "c.zip").write_bytes(server.files["/c.zip"])
    (usb / "ids.txt").write_text("7\n12\n300\n")
    code, outcome, _ = run("--from", str(usb))
    assert (code, outcome["files"][0]["state"]) == (OK, "made")
    assert _left(root) == ["c.tsv"]  # the zip is read where it lies
    assert server.asked == []

    shutil.move(root / "things/c.tsv", usb / "mine.tsv")
    assert run("--from", str(usb / "c.zip"))[1]["files"][0]["state"] == "made"
    assert [asked["path"] for asked in server.asked] == ["/ids.txt"]
    (root / "things/c.tsv").unlink()
    assert run("--from", str(usb / "mine.tsv"))[1]["files"][0]["state"] == "copied"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id\tcaption\n7\ta bus\n12\ta dog\n", "ids_sha256"),
        ("id\ttext\n7\thello\n", "no `caption` column"),
        ("id\tcaption\n7\ta bus\tmore\n", "malformed rows"),
        ("caption\na bus\n", "ids_sha256"),
    ],
)
def test_calibration_from_a_wrong_tsv(server, command, root, tmp_path, text, said):
    mine = tmp_path / "mine.tsv"
    mine.write_text(text)
    code, _, told = command([_calibration(server, tmp_path)])("--from", str(mine))
    assert code == USER
    assert said in told
    assert _left(root) == []


def test_annotations_without_the_captions(tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("7\n12\n301")
    _annotations(tmp_path / "c.zip", ROWS)
    with pytest.raises(UserError, match="lacks captions"):
        published.calibration_tsv(tmp_path / "c.zip", ids, tmp_path / "out.tsv")
    (tmp_path / "c.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be used"):
        published.calibration_tsv(tmp_path / "c.zip", ids, tmp_path / "out.tsv")


def test_the_published_calibration_file_is_reproduced_to_the_byte(shared, tmp_path):
    real = shared / "calibration_captions.tsv"
    with real.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    _annotations(tmp_path / "c.zip", rows)
    (tmp_path / "ids.txt").write_text("\n".join(row[0] for row in rows))
    published.calibration_tsv(tmp_path / "c.zip", tmp_path / "ids.txt", tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_bytes() == real.read_bytes()


@pytest.mark.parametrize("what", ["coco", "calibration", "latents"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_the_real_files_are_accepted(shared, root, capsys, what, folder):
    file = published.load()[what].files[0]
    source = shared if folder else shared / file.name
    assert download.main([what, "--from", str(source)]) == OK
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "copied"
    assert file.target.read_bytes() == (shared / file.name).read_bytes()
    rows = {"coco": 5000, "calibration": 500}
    if what in rows:
        assert len(prompts.read_tsv(file.target, what)) == rows[what]


def test_the_latent_is_mlperfs_to_the_bit(shared):
    real = np.load(shared / "latents.npy")
    assert np.array_equal(latents.mlperf().view(np.uint32), real.view(np.uint32))


def test_the_latent_has_the_published_checksum():
    expected = published.load()["latents"].files[0].values_sha256
    assert latents.values_sha256(latents.mlperf()) == expected
    assert latents.values_sha256(latents.mlperf(seed=1)) != expected


def test_latents_from_pt(root, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(latents.mlperf()), tmp_path / "latents.pt")
    assert download.main(["latents", "--from", str(tmp_path)]) == OK
    assert np.array_equal(np.load(root / "latents/latents.npy"), latents.mlperf())
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "copied"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: np.save(path, np.zeros((1, 4, 64, 64), np.float32)), "(1, 4, 64, 64)"),
        (lambda path: np.save(path, np.zeros(latents.SHAPE, np.float32)), "values_sha256"),
        (lambda path: path.write_bytes(b"not an array"), "is not a latent"),
    ],
    ids=["shape", "values", "format"],
)
def test_wrong_latents(root, tmp_path, capsys, write, said):
    write(tmp_path / "mine.npy")
    assert download.main(["latents", "--from", str(tmp_path / "mine.npy")]) == USER
    assert said in capsys.readouterr().err


def test_latents_run_no_code(root, tmp_path, capsys):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "latents.pt")
    assert download.main(["latents", "--from", str(tmp_path / "latents.pt")]) == USER
    assert "is not a latent" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
