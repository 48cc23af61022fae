"""What is made beside a checkpoint is made anew when what it follows from is another."""

from types import SimpleNamespace

import pytest

from sdxl.core import store
from sdxl.core.progress import silent
from sdxl.quant import layer_errors, mixed
from tests.quant.conftest import make

CHECKPOINT = SimpleNamespace(path=None, manifest=SimpleNamespace(key="0123456789abcdef"))


@pytest.fixture
def keys(monkeypatch):
    """Keys asked of the store, which has everything."""
    asked = []
    found = SimpleNamespace(json=lambda _: [])
    monkeypatch.setattr(store, "get", lambda _, key, *__, **___: asked.append(key) or found)
    return asked


def test_a_layer_report_knows_the_inputs_that_no_calibration_tells(keys, tmp_path):
    file = tmp_path / "statistics.safetensors"
    file.write_bytes(b"0")
    recipes = ["quant=int8_weight_only"], ["quant=int8", f"quant.statistics={file}"]
    for words in recipes:
        for steps in (4, 5):
            config = make(*words, f"model.steps={steps}")
            layer_errors.layer_report(config, CHECKPOINT)
    layer_errors.layer_report(make("quant=int8"), CHECKPOINT)  # its parent's key has them
    layer_errors.layer_report(make("quant=int8", "model.steps=5"), CHECKPOINT)
    assert keys[0] != keys[1] and keys[2] != keys[3]
    assert keys[4] == keys[5]


def test_errors_by_format_know_the_statistics_that_files_hold(keys, tmp_path):
    table, captions = tmp_path / "statistics.safetensors", tmp_path / "captions.tsv"
    table.write_bytes(b"0")
    lines = ["caption", *(f"a cube {n}" for n in range(12))]
    captions.write_text("\n".join(lines))
    brought = [f"quant.statistics={table}"], [f"quant.calib_dataset={captions}", "calib_size=12"]
    for words in brought:
        mixed.sensitivity(make("quant=auto_mixed", *words), [], None, silent)
    table.write_bytes(b"1")
    captions.write_text("\n".join([*lines[:-1], "a sphere"]))  # past those that are measured
    for words in brought:
        mixed.sensitivity(make("quant=auto_mixed", *words), [], None, silent)
    assert len(set(keys)) == 4
