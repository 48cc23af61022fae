"""The automatic choice: within the bound, as much work in 8 bits as the greedy order gives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdxl.config.schema import Format
from sdxl.core.errors import ConfigError, UserError
from sdxl.model.checkpoint import Checkpoint
from sdxl.quant import build, layer_errors, mixed
from tests.quant.conftest import CALLS, make

layers = st.dictionaries(
    st.text("abc", min_size=1, max_size=4),
    st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1), st.integers(1, 1000)),
    min_size=1,
)


@given(layers, st.floats(1e-3, 3))
def test_the_choice_is_within_its_target_and_a_looser_one_takes_more(found, target):
    errors = {name: {"int8": a, "fp8": b} for name, (a, b, _) in found.items()}
    macs = {name: work for name, (_, _, work) in found.items()}
    chosen, frontier = mixed.choose(errors, macs, sum(macs.values()), target)
    spent = sum(errors[name][each.value] ** 2 for name, each in chosen.items())
    assert spent <= target**2 * (1 + 1e-9)
    assert all(errors[n][f.value] == min(errors[n].values()) for n, f in chosen.items())
    assert [row["error"] for row in frontier] == sorted(row["error"] for row in frontier)
    assert frontier[-1]["mac_share"] == pytest.approx(1)
    more, _ = mixed.choose(errors, macs, sum(macs.values()), target * 2)
    assert set(chosen) <= set(more)


def test_a_mixed_checkpoint(statistics, warm_store):
    config = make("quant=auto_mixed", "target=0.1", f"calib_size={CALLS}")
    made = build.prepare(config)
    stored = Checkpoint(made.path)
    frontier = json.loads((made.path / build.FRONTIER).read_text())
    assert set(stored.layers) == {row["layer"] for row in frontier if row["chosen"]}
    assert 0 < len(stored.layers) < len(frontier)
    assert {layer.format for layer in stored.layers.values()} <= {Format.int8, Format.fp8}
    assert sum(made.manifest.settings["layers"].values()) == len(stored.layers)
    # The report measures the stored numbers; the choice was made from computed ones.
    measured = {row["layer"]: row["error"] for row in layer_errors.layer_report(config, made)}
    for row in frontier:
        if row["chosen"]:
            assert measured[row["layer"]] == pytest.approx(row["layer_error"], rel=1e-6)


def test_targets_that_cannot_be(statistics, warm_store):
    with pytest.raises(UserError, match="no layer meets the target"):
        build.prepare(make("quant=auto_mixed", "target=1e-6", f"calib_size={CALLS}"))
    with pytest.raises(ConfigError, match="`target` bounds"):
        make("quant=auto_mixed", "quant.target=null")
    with pytest.raises(ConfigError, match="`target` would be ignored"):
        make("quant=int8", "target=0.1")
