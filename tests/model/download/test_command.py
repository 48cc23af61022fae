"""`python -m sdxl download`: from local files too, its catalogue, its mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sdxl.core.errors import OK, USER
from sdxl.model.download import catalogue
from sdxl.model.download import command as download
from tests.conftest import ROOT
from tests.model.download.conftest import CONTENT, left, offered


def test_only_web_addresses(command, tmp_path):
    code, _, told = command([{"path": "things/a", "urls": [f"file://{tmp_path}/a"]}])()
    assert code == USER
    assert "is no web address" in told


def test_from_a_file_and_from_a_folder(server, command, root, tmp_path):
    files = [offered(server, "a.bin"), offered(server, "b.bin", b"b" * 10)]
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
    run = command([offered(server)])
    wrong = tmp_path / "a.bin"
    wrong.write_bytes(CONTENT[::-1])
    code, _, told = run("--from", str(wrong))
    assert code == USER
    assert f"{wrong} is not a.bin as it was published" in told
    assert "keep your own" in told
    assert left(root) == []
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
        [sys.executable, "-m", "sdxl", "download", "latents"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == OK, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["files"][0]["state"] == "made"


def test_the_catalogue_is_complete():
    targets = catalogue.load()
    assert list(targets) == ["sdxl", "vocabulary", "coco", "calibration", "latents", "metrics"]
    for target in targets.values():
        for file in target.files + [each for one in target.files for each in one.inputs]:
            assert file.urls or file.make
            sums = [getattr(file, kind) for kind in catalogue.DIGESTS]
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
    target = catalogue.load()["sdxl"]
    assert target.files[0].urls[0].startswith("http://mirror.test/stabilityai/")
    names = [file.inner for file in download._wanted("sdxl", target, None, "fp16")]
    assert len(names) == 18
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "unet/diffusion_pytorch_model.safetensors" not in names
    assert "unet/config.json" in names


def test_a_component_without_the_variant_comes_in_its_plain_file():
    """As a run reads them: `weight_files.choose` is the one rule."""
    target = catalogue.load()["sdxl"]
    lost = "sdxl/vae/diffusion_pytorch_model.fp16.safetensors"
    target.files = [file for file in target.files if file.path != lost]
    names = [file.inner for file in download._wanted("sdxl", target, None, "fp16")]
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    assert weights == [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_git_blob_checksum(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"hello\n")
    named = catalogue.File("things/x", git_blob_sha1="ce013625030ba8dba906f756967f9e9ca394464a")
    assert named.problem(file) is None
    file.write_bytes(b"hullo\n")
    assert "git_blob_sha1" in str(named.problem(file))


def test_what_the_hubs_cache_has_is_copied_if_it_is_whole(
    server, command, root, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "462165984030d82259a11f4367a4eed129e94a7b"
    files = [offered(server, name) for name in ("a.bin", "b.bin")]
    for file in files:
        name = file["path"].partition("/")[2]
        file["urls"] = [f"{server.url}/some/one/resolve/{commit}/{name}"]
        server.files[f"/some/one/resolve/{commit}/{name}"] = CONTENT
    folder = tmp_path / "hub" / "models--some--one" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(CONTENT)
    (folder / "b.bin").write_bytes(CONTENT[::-1])
    code, outcome, _ = command(files)()
    assert (code, [file["state"] for file in outcome["files"]]) == (OK, ["copied", "fetched"])
    assert all((root / "things" / name).read_bytes() == CONTENT for name in ("a.bin", "b.bin"))
    assert [asked["path"][-5:] for asked in server.asked] == ["b.bin"]
