"""What steps of the measuring session keep, count and refuse; their payload's lines."""

import dataclasses
import sys

import pytest

from benchmarks import gpu_payload
from benchmarks.gpu import scenarios, steps
from benchmarks.gpu.child import Context
from sdxl.core.record import Performance, Record
from tests.conftest import ROOT


def test_what_is_kept_of_a_record_is_in_records():
    assert set(scenarios.PERFORMANCE) <= {f.name for f in dataclasses.fields(Performance)}
    assert set(scenarios.RECORD) <= {f.name for f in dataclasses.fields(Record)}
    record = Record("key", {}, "run.py", status="ok").to_json()
    record["durations"] = {"load_s": 31.0, "warm_up_s": 12.5}
    detail = {"result_validity": "VALID", "seed": 1}
    record["performance"] = {"value": 2.0, "loadgen": {"detail": detail}}
    kept = scenarios.of_record(record)
    assert kept["durations"] == {"load_s": 31.0, "warm_up_s": 12.5} and kept["status"] == "ok"
    assert kept["performance"] == {"value": 2.0}
    assert kept["loadgen"] == {"result_validity": "VALID"}


def test_what_a_run_prints_is_noted_while_it_runs(tmp_path, monkeypatch):
    """The run waits for a file that only the note of its first line makes."""
    monkeypatch.setattr(scenarios, "NOTED_S", 0.0)
    mark, seen = tmp_path / "noted", []

    def note(**found):
        seen.append(found)
        mark.touch()

    script = (
        "import pathlib, sys, time\n"
        "print('loaded', flush=True)\n"
        "end = time.monotonic() + 20\n"
        f"while not pathlib.Path({str(mark)!r}).exists():\n"
        "    assert time.monotonic() < end\n"
        "print('warm', flush=True)\n"
        "sys.exit(3)\n"
    )
    scenarios._streamed([sys.executable, "-c", script], Context(tmp_path, True, note))
    assert seen[0] == {"printed": ["loaded"]}
    assert seen[-1] == {"printed": ["loaded", "warm"], "exit_status": 3}


def test_a_whole_run_is_begun_only_where_it_can_end():
    runs = [step for step in steps.SECOND if step.run == "scenarios:run"]
    assert [step.name for step in steps.SECOND[-len(runs) :]] == [step.name for step in runs]
    assert {step.name: step.least_s for step in runs} == {
        "steady": 200, "server": 170, "singlestream": 120,
    }  # fmt: skip
    assert all(step.least_s < step.limit_s for step in runs)
    assert steps.deadline_of(300.0) == 300.0 - steps.AROUND_S
    assert steps.deadline_of(900.0) == steps.CALL_S and steps.deadline_of(10.0) == 0


class OnCpu(Context):
    """Everything at its real size, as far as a step asks, on the processor."""

    @property
    def device(self):
        return pytest.importorskip("torch").device("cpu")


def test_a_size_that_the_vae_cannot_decode_costs_no_other(tmp_path, load, monkeypatch):
    from benchmarks.gpu import decoding

    seen = {}
    tiny = load("model=tiny_random", "model.height=64", "model.width=64")
    plain = decoding.measured

    def measured(vae, latents, size):
        if size == 1:
            raise RuntimeError("CUDA out of memory")
        return plain(vae, latents, size)

    monkeypatch.setattr(decoding, "SIZES", (1, 2))
    monkeypatch.setattr(decoding, "measured", measured)
    monkeypatch.setattr(decoding, "composed", lambda *_: tiny)
    context = OnCpu(tmp_path, False, lambda **found: seen.update(found))
    line = decoding.run(context, (), 2)["line"]
    assert "out of memory" in line and seen["vae"]["eager 2"]["ms_per_picture"] > 0
    assert seen["vae"]["bytes 2"]["same_bytes"]


def test_the_lines_to_type_lead_to_the_archives(tmp_path):
    told = gpu_payload.lines(ROOT / "payload", True)
    assert "python3 -m tarfile -e payload/site.tar.xz /tmp/sdxl-site &&" in told
    assert "payload/triton.tar.xz" in told and str(ROOT) not in told and "carry" in told
    assert "triton.tar.xz" not in gpu_payload.lines(ROOT / "payload", False)
    with pytest.raises(ValueError, match="outside of the tree"):
        gpu_payload.lines(tmp_path, False)
