"""Every reader of a file takes damage as damage: named, or as if the file were missing."""

import dataclasses
import json
import os
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sdxl.backends.trt.engine import check as check_engine
from sdxl.bench import peaks
from sdxl.config.engines import Flavor
from sdxl.config.schema import Format, Rerun
from sdxl.core import digests, json_file, records, secrets, store
from sdxl.core.errors import SdxlError, UserError
from sdxl.model import checkpoint, weight_files
from sdxl.quality import per_prompt
from sdxl.quant import statistics
from sdxl.run import identity, ledger, peak, shared
from sdxl.training import checkpoint as training
from tests import damaged
from tests.conftest import ROOT

some = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
KEY = "0123456789abcdef"
GPU = {"name": "NVIDIA H100", "capability": "sm90"}


def names(error, path):
    """The message names the file, or the folder it is the reason to rebuild."""
    return str(path) in str(error) or str(path.parent) in str(error)


@pytest.fixture(scope="module")
def whole(load):
    """A record as a run writes it."""
    record = identity.new(load("backend=fake"))
    record.status, record.performance.images_per_second = "ok", 7.25
    return record.to_json()


@some
@given(chosen=st.data())
def test_records(whole, tmp_path, chosen):
    path = damaged.put(tmp_path / "record.json", chosen.draw(damaged.of_json(whole)))
    try:
        found = records.read(path)
    except UserError as error:
        assert names(error, path)
    else:
        rate = found.performance.images_per_second
        assert rate is None or rate + 0.5 < float("inf")


@some
@given(chosen=st.data())
def test_ledger_entries(whole, tmp_path, chosen):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(whole))
    ledger.remember(records.read(path), path)
    assert ledger.recall(whole["key"], Rerun.failed)
    entry = store.root() / "ledger" / ledger.place() / f"{whole['key']}.json"
    kept = json.loads(entry.read_text())
    damaged.put(entry, chosen.draw(damaged.of_json(kept)))
    found = ledger.recall(whole["key"], Rerun.failed)
    assert found is None or found[0] == path


@some
@given(chosen=st.data())
def test_manifests(tmp_path, chosen):
    made = store.get("onnx", KEY, lambda folder: (folder / "a").write_text("x") and {}, settings={})
    path = made.path / "manifest.json"
    text = path.read_bytes()
    damaged.put(path, chosen.draw(damaged.of_json(json.loads(text))))
    try:
        found = store.find("onnx", KEY)
        assert found and all((found.path / name).is_file() for name in found.manifest.files)
    except SdxlError as error:
        assert names(error, path) and f"rm -r {made.path}" in str(error)
    try:
        child = store.get("onnx", "f" * 16, lambda folder: os.link(made.path / "a", folder / "a")
                          or {}, settings={}, parents=[KEY])  # fmt: skip
        assert child.manifest.files["a"]["bytes"] == 1
    finally:
        damaged.put(path, text)


@some
@given(chosen=st.data())
def test_sweep_files(tmp_path, chosen, capsys):
    shared._warn.cache_clear()
    whole = shared.Shared("grid", "2026-01-01T00:00:00Z", "parent")
    content = chosen.draw(damaged.of_json(dataclasses.asdict(whole)))
    path = damaged.put(tmp_path / shared.FILE, content)
    found = shared.of_cell(tmp_path / "0")
    said = capsys.readouterr().err
    assert (found is None) == (str(path) in said)
    shared.of_cell(tmp_path / "0")
    assert not capsys.readouterr().err, "said once"


@some
@given(chosen=st.data())
def test_engines(tmp_path, chosen):
    made = {"flavor": "tensorrt", "tensorrt": "10", "host": "x", "rows": [1, 2, 4], "gpu": GPU}
    whole = {"kind": "engine", "key": "k", "settings": made,
             "files": {"engine.plan": {"bytes": 1, "sha256": "x"}}}  # fmt: skip
    damaged.put(tmp_path / "manifest.json", chosen.draw(damaged.of_json(whole)))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        check_engine(tmp_path, "11", Flavor.tensorrt, GPU)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A small checkpoint: its two files."""
    folder = tmp_path_factory.mktemp("checkpoint")
    layer = checkpoint.StoredLayer("a", "linear", Format.int8)
    weight, amax = torch.ones(4, 4), torch.ones(4, 1)
    tensors = {"a.weight": checkpoint.encode(layer, weight, amax), "a.weight_amax": amax}
    checkpoint.write(folder, [layer], tensors)
    return [(folder / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.LAYERS)]


@some
@given(chosen=st.data())
def test_checkpoints(quantized, tmp_path, chosen):
    weights, layers = quantized
    if chosen.draw(st.booleans()):
        weights = chosen.draw(damaged.of_safetensors(weights))
    else:
        layers = chosen.draw(damaged.of_json(json.loads(layers)))
    damaged.put(tmp_path / checkpoint.LAYERS, layers)
    (tmp_path / checkpoint.WEIGHTS).unlink(missing_ok=True)  # the old one may still be mapped
    damaged.put(tmp_path / checkpoint.WEIGHTS, weights)
    try:
        found = checkpoint.Checkpoint(tmp_path)
    except SdxlError as error:
        assert f"rm -r {tmp_path}" in str(error)
    else:
        assert all(f"{name}.weight" in found.names for name in found.layers
                   if found.layers[name].kind != "attention")  # fmt: skip


@some
@given(chosen=st.data())
def test_statistics(tmp_path, chosen):
    path = tmp_path / "statistics.safetensors"
    ones = torch.ones(2, 3)
    made = statistics.Statistics(torch.ones(1, 2, 1), ones, ones.clone(), [9.0, 1.0], ["a"],
                                 {"b": slice(0, 3)}, {})  # fmt: skip
    path.unlink(missing_ok=True)
    made.save(path)
    content = chosen.draw(damaged.of_safetensors(path.read_bytes()))
    path.unlink()
    damaged.put(path, content)
    try:
        found = statistics.load(path)
        assert all(found.tensor(name).shape == (1, 2) for name in found.tensors)
        assert all(found.channel(name).numel() for name in found.channels)
    except UserError as error:
        assert names(error, path)


@some
@given(chosen=st.data())
def test_headers_of_weights(tmp_path, chosen):
    path = tmp_path / "model.safetensors"
    path.unlink(missing_ok=True)
    save_file({"a": torch.ones(2, 2), "b": torch.ones(3)}, path, {"format": "pt"})
    content = chosen.draw(damaged.of_safetensors(path.read_bytes()))
    path.unlink()
    damaged.put(path, content)
    try:
        tensors = weight_files.header(path, "copy it again")
        assert all(isinstance(size, int) for each in tensors.values() for size in each.shape)
        weight_files.metadata(path)
    except UserError as error:
        assert names(error, path)


@some
@given(chosen=st.data())
def test_a_trainings_checkpoint(tmp_path, chosen):
    path = tmp_path / "training.safetensors"
    path.unlink(missing_ok=True)
    facts = {"step": "3", "settings": json.dumps({"lr": 0.1})}
    save_file({"model/a": torch.ones(2), "average/a": torch.ones(2)}, path, facts)
    content = chosen.draw(damaged.of_safetensors(path.read_bytes()))
    path.unlink()
    damaged.put(path, content)
    for read in (training.steps_done, training.averaged,
                 lambda path: training.refuse_others(path, {"lr": 0.1})):  # fmt: skip
        try:
            read(path)
        except UserError as error:
            assert names(error, path) and "train.restart=true" in str(error)


@some
@given(chosen=st.data())
def test_files_that_are_made_anew(tmp_path, chosen):
    """Memory of checksums, of rooflines, of a search's probes: as if they were missing."""
    file = damaged.put(tmp_path / "weights", b"x")
    right = digests.of(file)
    memory = store.root() / "digests.json"
    stamped = json.loads(memory.read_text())
    damaged.put(memory, chosen.draw(damaged.of_json(stamped)))
    assert digests.of(file).keys() == right.keys()
    damaged.put(memory, json.dumps({}).encode())
    rooflines = damaged.put(tmp_path / "peaks", chosen.draw(damaged.of_json({"fp32 on cpu": 1e12})))
    assert all(0 < value < float("inf") for value in peaks._read(rooflines).values())
    noted = [{"qps": 1.0, "valid": True, "reason": "", "record": str(file)}]
    state = damaged.put(tmp_path / "state", chosen.draw(damaged.of_json(noted)))
    assert all(probe["qps"] > 0 for probe in peak._resume(state))


@some
@given(chosen=st.data())
def test_figures_by_prompt(tmp_path, chosen):
    whole = {"schema": 1, "prompts": [[0, "a"]], "figures": {
        "clip": {"higher_is_better": True, "answer": False, "values": [1.0]}}}  # fmt: skip
    path = damaged.put(tmp_path / "prompts.json", chosen.draw(damaged.of_json(whole)))
    try:
        per_prompt.read(path)
    except UserError as error:
        assert names(error, path)


@pytest.mark.parametrize("content", damaged.OTHERS)
def test_somebody_elses_variable(monkeypatch, content):
    if b"\x00" not in content:
        monkeypatch.setenv(secrets.WITHHELD, content.decode(errors="replace"))
    assert secrets.restored("http://host") == "http://host"


READERS = {
    "record": (records.read, "record.json"),
    "layers": (lambda path: checkpoint.Checkpoint(path.parent), checkpoint.LAYERS),
    "weights": (lambda path: weight_files.header(path, "fix"), "model.safetensors"),
    "statistics": (statistics.load, "statistics.safetensors"),
    "prompts": (per_prompt.read, "prompts.json"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_in_place_of_a_file(tmp_path, reader):
    read, name = READERS[reader]
    (tmp_path / name).mkdir()
    with pytest.raises((SdxlError, IsADirectoryError)) as caught:
        read(tmp_path / name)
    assert names(caught.value, tmp_path / name)


def test_folders_in_place_of_what_is_kept(tmp_path, capsys):
    (tmp_path / shared.FILE).mkdir()
    assert shared.of_cell(tmp_path / "0") is None and shared.FILE in capsys.readouterr().err
    (store.root() / "onnx" / KEY / "manifest.json").mkdir(parents=True)
    with pytest.raises(SdxlError, match="rm -r"):
        store.find("onnx", KEY)
    assert peaks._read(tmp_path) == {} and peak._resume(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_may_not_be_read(tmp_path, reader):
    read, name = READERS[reader]
    (tmp_path / name).write_text("{}")
    (tmp_path / name).chmod(0)
    with pytest.raises((SdxlError, PermissionError)) as caught:
        read(tmp_path / name)
    assert names(caught.value, tmp_path / name)


def test_json_files_have_one_reader():
    """Whoever reads JSON from a file does it where depth and encoding are taken care of."""
    both = re.compile(r"json\.loads?\([^\n]*(read_text|read_bytes|open\()")
    alone = ROOT / "sdxl" / "assets"  # scripts that packs carry run without the package
    files = [path for path in (ROOT / "sdxl").rglob("*.py") if not path.is_relative_to(alone)]
    found = [path for path in files if both.search(path.read_text())]
    assert not found
    with pytest.raises(ValueError, match="nested too deeply"):
        json_file.parse(damaged.DEEP)
