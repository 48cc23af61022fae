"""A pack: what it holds, that the other tool alone draws the record's pictures, what is refused."""

import json
import subprocess
import sys
from importlib.util import find_spec

import onnx
import pytest

from sdxl.core import records
from sdxl.core.paths import ASSETS
from sdxl.core.record import Record
from sdxl.core.store import sha256
from sdxl.quant import build
from sdxl.run.pack import check
from tests.run.pack.conftest import SMALL


@pytest.fixture(scope="session")
def plain(record_of, tmp_path_factory):
    return record_of(tmp_path_factory.mktemp("record"), SMALL)


def test_diffusers_alone_draws_the_pictures(packed, plain, tmp_path):
    target = tmp_path / "pack"
    code, line = packed(plain, "--to", target, "--as", "diffusers")
    assert code == 0 and line["verified"] and line["pictures"] == 2
    assert line["largest"] <= 1 and "diffusers" in line["versions"]
    assert [path.name for path in tmp_path.glob(".*")] == []  # nothing half-made beside it

    told = json.loads((target / "pack.json").read_text())
    assert told["verified"]["largest"] == line["largest"] and told["kind"] == "diffusers"
    index = json.loads((target / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    for text in (target / "draw.py", target / "verify.py"):
        assert "sdxl" not in text.read_text()

    card = (target / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "## Figures of the record" in card
    assert "verified: 2 of the record's pictures" in card
    assert "Apache-2.0" in (target / "LICENCES.md").read_text()
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=target)
    assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (target / "SHA256SUMS").read_text().splitlines()}
    there = {str(f.relative_to(target)) for f in target.rglob("*") if f.is_file()}
    assert there - listed == {"SHA256SUMS"} and listed <= there


def test_other_pictures_are_noticed(packed, plain, tmp_path):
    other = tmp_path / "record"
    other.mkdir()
    record = records.read(plain / "record.json")
    record.images = record.images[:1]
    record.images[0].caption = "something else"
    records.write(record, other)
    (other / "images").symlink_to(plain / "images")
    code, line = packed(other, "--to", tmp_path / "pack", "--as", "diffusers")
    assert code == 1 and "other pictures" in line["reason"]
    assert not (tmp_path / "pack").exists() and not list(tmp_path.glob(".pack*"))


def test_a_tool_that_is_absent_is_told_with_the_line_that_installs_it(
    packed, plain, tmp_path, monkeypatch
):
    bare = tmp_path / "python"  # an interpreter that has nothing
    bare.write_text('#!/bin/sh\nexec python3 -I -S "$2"\n')
    bare.chmod(0o755)
    target = tmp_path / "pack"
    code, line = packed(plain, "--to", target, "--as", "diffusers", "--python", bare)
    assert code == 0 and not line["verified"] and "pip install torch diffusers" in line["reason"]
    assert "not verified" in (target / "README.md").read_text()


def test_a_server_of_others_is_no_model(packed, tmp_path):
    line = "python run.py backend=http backend.dialect=openai model=tiny"
    records.write(Record(key="k", config={}, command=line), tmp_path / "cell")
    code, line = packed(tmp_path / "cell", "--to", tmp_path / "pack", "--as", "onnx")
    assert code == 2 and "nobody knows what that server drew with" in line["reason"]


@pytest.mark.parametrize(
    ("setting", "words", "said"),
    [
        ("backend=fake", (), "fake backend"),
        ("shortcut=deepcache", (), "shortcut=deepcache"),
        ("quant=int4_weight_only", (), "no quantizer of diffusers carries int4_weight_only"),
        ("quant=fp8_mha", (), "FP8 attention"),
        ("", ("--check", "-1"), "`--check` is negative"),
        ("", ("--python", "no/such/python"), "`--python` is no program"),
        ("", ("--to", "."), "the folder that you are in"),
        ("", ("--as", "gguf"), "invalid choice"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(packed, tmp_path, setting, words, said):
    line = f"python run.py {' '.join(SMALL)} {setting}"
    records.write(Record(key="k", config={}, command=line), tmp_path / "cell")
    words = words if "--as" in words else ("--as", "diffusers", *words)
    code, line = packed(tmp_path / "cell", "--to", tmp_path / "pack", *words)
    assert code == 2 and said in line["reason"]
    assert not (tmp_path / "pack").exists()


def test_an_interpreter_is_found_from_here(tmp_path, monkeypatch):
    """The check runs elsewhere; a link stays one, by which an environment is known."""
    (tmp_path / "env/bin").mkdir(parents=True)
    link = tmp_path / "env/bin/python"
    link.symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert check.interpreter("env/bin/python") == str(link)
    assert check.interpreter(sys.executable) == sys.executable


def test_nothing_is_overwritten(packed, plain, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for target in (mine, mine / "notes.txt"):
        code, line = packed(plain, "--to", target, "--as", "diffusers")
        assert code == 2 and "in the way" in line["reason"]
    assert sha256(mine / "notes.txt") and [f.name for f in mine.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="session")
def graphs(record_of, exported_once, tmp_path_factory):
    """A record whose UNet's graph the store has."""
    return record_of(tmp_path_factory.mktemp("graphs"), exported_once.words)


@pytest.mark.slow
def test_onnxruntime_alone_draws_the_pictures(packed, graphs, exported, tmp_path):
    target = tmp_path / "pack"
    code, line = packed(graphs, "--to", target, "--as", "onnx")
    assert code == 0 and line["verified"] and line["largest"] <= 1
    assert set(line["versions"]) == {"onnxruntime"}
    model = onnx.load(target / "unet/model.onnx", load_external_data=False)
    assert [value.name for value in model.graph.output] == ["out_sample"]
    text = onnx.load(target / "text_encoder_2/model.onnx", load_external_data=False)
    names = [value.name for value in text.graph.output]
    assert names[:3] == ["text_embeds", "last_hidden_state", "hidden_states.0"]  # as optimum reads
    card = (target / "README.md").read_text()
    assert card.count("trtexec --stronglyTyped") == 4 and "sample:2x4x8x8" in card


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
def test_openvino_alone_draws_the_pictures(packed, graphs, exported, tmp_path):
    target = tmp_path / "pack"
    code, line = packed(graphs, "--to", target, "--as", "openvino")
    assert code == 0 and line["verified"] and line["largest"] <= 1
    assert set(line["versions"]) == {"openvino"}
    kinds = {path.suffix for path in target.glob("*/*")}
    assert {".xml", ".bin"} < kinds and ".onnx" not in kinds and ".data" not in kinds
    assert "trtexec" not in (target / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_engines_say_what_they_were_made_for(packed, graphs, exported, tmp_path):
    target = tmp_path / "pack"
    code, line = packed(graphs, "--to", target, "--as", "tensorrt")
    assert code == 0, line
    told = json.loads((target / "pack.json").read_text())
    assert {path.stem for path in target.glob("*.engine")} == set(told["engines"])
    unet = told["engines"]["unet"]
    assert told["library"] == "tensorrt_rtx" and unet["tensorrt"] and unet["rows"][0] <= 2
    assert not line["verified"] and "GPU" in line["reason"]


def test_scripts_stand_alone():
    texts = {path.name: path.read_text() for path in (ASSETS / "pack").glob("*.py")}
    assert len(texts) == 6
    assert not [
        name for name, text in texts.items() if "import sdxl" in text or "from sdxl" in text
    ]
    assert len(texts["runtime_tensorrt.py"].splitlines()) <= 60


@pytest.mark.slow
def test_a_quantized_graph_keeps_its_integers(packed, load, record_of, exported, tmp_path):
    words = [*exported.words, "quant=int8", "quant_level=3", "calib_size=1"]
    cell = record_of(tmp_path / "cell", words, {"unet": build.prepare(load(*words)).path})
    target = tmp_path / "pack"
    code, line = packed(cell, "--to", target, "--as", "onnx")
    assert code == 0 and line["verified"] and line["psnr_db"] > 30
    model = onnx.load(target / "unet/model.onnx", load_external_data=False)
    assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    assert (target / "unet/unet.safetensors").is_file()
