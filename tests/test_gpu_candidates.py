"""What the measuring session's candidates include, by which clock, and what counts as right."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the kernels need Triton: pip install -e .[test]")

from benchmarks.gpu import candidates, clock, correct, data, elementwise, ours  # noqa: E402
from benchmarks.gpu.child import Context  # noqa: E402

CPU = torch.device("cpu")


def test_kernels_and_rivals_are_timed_by_one_clock_and_with_the_convolution_of_a_run(
    tmp_path, monkeypatch, capfd
):
    from benchmarks import kernels
    from sdxl.backends.torch.kernels import conv, tuning

    def ms(runs, device):
        assert len(runs) > 0 and device == CPU
        return 2.0

    monkeypatch.setattr(clock, "ms", ms)
    monkeypatch.setattr(tuning, "tune", lambda *_: pytest.fail("another clock"))
    monkeypatch.setattr(conv, "conv", lambda *_: pytest.fail("strided convolutions alone"))
    notes = []
    context = Context(tmp_path, True, lambda **found: notes.append(found))
    for run in kernels.KINDS.values():
        run(context)
    for found in notes:
        kernels.tell(**found)
    times = {name: each for found in notes for name, shapes in found.items()
             for each in shapes.values()}  # fmt: skip
    assert set(times) == {"linear", "conv", "attention", "norms"}
    for each in times.values():
        assert any(name.startswith("triton fp8") for name in each)
        assert all(took["ms"] == 2.0 for took in each.values() if "error" not in took)
        assert any("bf16" in name or name in candidates.KERNELS for name in each)
    (image,) = (shape for shape in notes[3]["conv"])
    assert "conv 1x6x6x32->32" in image
    assert '"shape": "conv 1x6x6x32->32", "fastest": ' in capfd.readouterr().out


def test_fp8_attention_pays_for_rounding_query_key_and_value(monkeypatch):
    generator = data.generator(CPU, 0)
    wide = [data.values((1, n, 2, 32), CPU, generator) for n in (20, 7, 7)]
    rounded, plain = [], ours.quantize
    monkeypatch.setattr(
        ours, "quantize", lambda *given: rounded.append(given[0].shape) or plain(*given)
    )
    per_unit = torch.tensor(data.RANGE["fp8"] / data.SPREAD)
    found = candidates._triton_attention(wide, per_unit, ours.tiles("attention")[0])
    assert rounded == [(20, 64), (7, 64), (7, 64)] and found.shape == (1, 20, 2, 32)
    query, key, value = (each.transpose(1, 2).float() for each in wide)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert float((found.transpose(1, 2) - expected).norm() / expected.norm()) < 0.1


def hopper(left, right):
    """An FP8 product as its accumulator has it: 32 products at a time, 13 bits, cut off."""
    found = torch.zeros(len(left), len(right), dtype=torch.float64)
    for start in range(0, left.shape[1], 32):
        columns = slice(start, start + 32)
        found += left[:, columns] @ right[:, columns].T
        step = torch.exp2(torch.frexp(found)[1].double() - 1 - 13)
        found = (found / step).trunc() * step
    return found


@pytest.mark.parametrize("depth", [640, 1280, 5120, 11520])
def test_what_an_fp8_product_loses_is_allowed_and_a_missing_block_is_not(depth):
    generator = torch.Generator().manual_seed(depth)
    left, right = (data.codes((64, depth), "fp8", CPU, generator).double() for _ in range(2))
    exact, found = left @ right.T, hopper(left, right)
    most = correct.MOST_ERROR + correct.lost(depth, "fp8")
    assert correct._near(found.bfloat16(), exact, most)["ok"]
    if depth == 11520:
        assert not correct._near(found.bfloat16(), exact)["ok"], "no bound that forgets the depth"
    left[:, -128:] = 0
    assert not correct._near(hopper(left, right).bfloat16(), exact, most)["ok"]
    assert correct.lost(depth, "int8") == 0


def test_codes_of_a_product_may_differ_by_what_its_depth_allows():
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(512, 256, generator=generator).double()
    error = correct.lost(1280, "fp8")
    off = exact * (1 - error)
    codes, expected = (each.mul(100).to(torch.float8_e4m3fn) for each in (off, exact))
    assert correct._equal(codes, expected, error)["ok"]
    wrong = (exact * 0.9).mul(100).to(torch.float8_e4m3fn)
    assert not correct._equal(wrong, expected, error)["ok"]


@pytest.mark.parametrize(
    ("kind", "mine", "eager"),
    [("quantize", 3, 4), ("layer_norm 1", 3, 4), ("layer_norm 3", 5, 4), ("geglu", 5, 10)],
)
def test_bytes_of_eager_operations_are_their_own(kind, mine, eager):
    case = elementwise.Case(kind, (16, 64))
    per_unit, generator = torch.tensor(100.0), data.generator(CPU, 0)
    runs = elementwise.build(case, torch.int8, per_unit, CPU, generator)
    assert (runs.moved, runs.eager_moved) == (16 * 64 * mine, 16 * 64 * eager)
    groups = elementwise.build(
        elementwise.Case("group_norm skip", (1, 6, 64)), torch.int8, per_unit, CPU, generator
    )
    assert groups.moved == 2 * 36 * 64 * 5 and math.isclose(groups.eager_moved, 2 * 36 * 64 * 18)
