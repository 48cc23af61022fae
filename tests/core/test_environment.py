"""Where a figure was measured: what tells one machine from another."""

from __future__ import annotations

import pytest

from sdxl.bench import peaks
from sdxl.core import environment
from sdxl.run import ledger

X86 = "processor : 0\nmodel name\t: A Processor\nflags\t\t: fpu {} avx2 sse\n\nprocessor : 1\n"


@pytest.fixture
def flags(monkeypatch):
    """Flags of the processor that the system then tells of; kept answers are forgotten."""
    found = []
    monkeypatch.setattr(environment, "_told", lambda field: {
        "model name": "A Processor", "flags": found[-1]}.get(field, ""))  # fmt: skip

    def told(text):
        found.append(text)
        environment.describe.cache_clear()
        ledger.place.cache_clear()

    yield told
    monkeypatch.undo()
    told("")


def test_processors_of_one_name_are_told_apart_by_their_instructions(flags):
    """A virtual machine's are often called no more than their maker's name."""
    seen = []
    for text in ("fpu avx2 sse", "fpu avx512_vnni avx2 sse avx512f"):
        flags(text)
        seen.append((environment.processor(), ledger.place(), peaks.machine_file().name))
    assert seen[0][0] == "A Processor avx2"
    assert seen[1][0] == "A Processor avx2 avx512f avx512_vnni"
    assert all(one != other for one, other in zip(*seen, strict=True))
    assert environment.describe()["instructions"] == "avx2 avx512f avx512_vnni"


def test_what_linux_tells_of_a_processor(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(environment, "Path", lambda _: file)
    assert environment.instructions() == "", "no such file"
    file.write_text(X86.format("amx_int8"))
    assert (environment._told("model name"), environment.instructions()) == (
        "A Processor", "avx2 amx_int8",
    )  # fmt: skip
    file.write_text("processor : 0\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU part : 0xd4f\n")
    assert environment.instructions() == "asimddp i8mm bf16"
