"""The clock of candidates: what is replayed, and what is told when a capture fails."""

import contextlib

import pytest
import torch

from sdxl.backends.torch import clock


class Graph:
    """Stands for CUDA's: notes what it is asked for."""

    def __init__(self):
        self.calls, self.open = [], False

    def capture_begin(self, pool, capture_error_mode):
        assert pool == "the pool"
        self.calls.append(f"begin {capture_error_mode}")

    def capture_end(self):
        self.calls.append("end")
        if "broken" in self.calls:
            raise RuntimeError("the capture is invalid")

    def replay(self):
        self.calls.append("replay")


class Stream:
    def wait_stream(self, other):
        pass


class Event:
    """Reads a clock that goes on by 8 ms at each replay."""

    def __init__(self, graph):
        self.graph, self.at = graph, 0

    def record(self):
        self.at = 8.0 * self.graph.calls.count("replay")

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return other.at - self.at


@pytest.fixture
def graph(monkeypatch):
    made = Graph()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(made))
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    monkeypatch.setattr(clock, "_shared", {})
    return made


def test_a_call_on_a_gpu_is_timed_by_replays_of_several(graph):
    ran = []
    took = clock.ms(lambda: ran.append(1), torch.device("cuda"))
    assert took == 8.0 / clock.CALLS
    assert len(ran) == 1 + clock.CALLS, "once before, then captured"
    replays = 1 + clock.TRIALS
    assert graph.calls == ["begin thread_local", "end", *["replay"] * replays]
    assert clock._shared["last"] is graph


def test_tiles_are_timed_in_the_same_way(graph, monkeypatch):
    """`torch.cuda.graph` gives the allocator's cache back at every capture, of every tile."""
    pytest.importorskip("triton")
    from sdxl.backends.torch.kernels import tuning

    monkeypatch.setattr(torch.cuda, "graph", lambda *_: pytest.fail("the allocator's cache"))
    took = tuning.milliseconds(lambda: None)
    assert took == 8.0 / tuning.MOST_CALLS
    replays = 1 + tuning.REPLAYS
    assert graph.calls == ["begin thread_local", "end", *["replay"] * replays]


def test_what_breaks_a_capture_is_told_and_the_capture_ended(graph):
    def run():
        if graph.calls:
            graph.calls.append("broken")
            raise ValueError("not while capturing")

    with pytest.raises(ValueError, match="not while capturing"):
        clock.ms(run, torch.device("cuda"))
    assert graph.calls == ["begin thread_local", "broken", "end"]
    assert not clock._shared, "the next capture has a pool that PyTorch does not think in use"


def test_a_call_on_a_processor_is_timed_by_the_hosts_clock():
    ran = []
    assert clock.ms(lambda: ran.append(1), torch.device("cpu")) >= 0
    assert len(ran) == 1 + clock.TRIALS
