"""Arrivals of requests: their rate, their gaps, a trace's lines."""

import numpy as np
import pytest

from sdxl.bench.arrivals import poisson, read_trace
from sdxl.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "what"),
    [("1\nx\n", "line 2"), ("2\n1\n", "line 2"), ("-1\n2\n", "line 1"), ("nan\n", "line 1"),
     ("1\ninf\n", "line 2"), ("1\n", "no load"), ("", "no load")],
)  # fmt: skip
def test_a_line_of_a_trace_that_is_no_arrival_is_named(tmp_path, text, what):
    (tmp_path / "trace").write_text(text)
    with pytest.raises(UserError, match=what):
        read_trace(tmp_path / "trace")
    with pytest.raises(UserError, match="cannot be read"):
        read_trace(tmp_path / "nowhere")


def test_arrivals_have_their_rate_and_the_same_gaps_at_every_rate():
    slow, fast = (np.array(poisson(rate, 100.0, 1, 0)) for rate in (10.0, 20.0))
    assert len(slow) == 1000 and slow[-1] == pytest.approx(100.0)
    assert len(fast) == 2000 and fast[-1] == pytest.approx(100.0)
    gaps = [np.diff(each[:1000]) for each in (slow, fast)]
    assert np.ptp(gaps[0] / gaps[1]) < 1e-9
    assert np.std(gaps[0]) / np.mean(gaps[0]) == pytest.approx(1.0, abs=0.1), "exponential"
