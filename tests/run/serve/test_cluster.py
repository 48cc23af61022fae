"""Two replicas of Ray Serve pass the slice of the load test, and end without losing anything."""

import threading
import time

import pytest

from tests.run.serve import conftest  # noqa: F401  finds the benchmarks

import _serve  # isort: skip
import serve_load  # isort: skip

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")


@pytest.mark.slow
def test_two_replicas_lose_nothing(monkeypatch):
    monkeypatch.delenv("PYTHONPATH")  # Ray looks for this machine by its outer address
    words = ("backend=fake", "backend.latency_ms=20", "--queue", "16", "--ray", "--replicas", "2")
    with _serve.Served(*words) as served:
        found = serve_load.attack(served, 6.0, 16, 60)
        codes = []

        def one():
            codes.append(_serve.ask(_serve.connect(served.url), {"prompt": "x", "n": 4})[0])

        clients = [threading.Thread(target=one) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.2)
        served.stop()
        for client in clients:
            client.join()
    assert found["wrong"] == [] and found["replaced"] and found["pictures"] > 50
    assert codes == [200] * 3, served.said()
    assert served.code == 0 and served.line["status"] == "ok" and served.line["replicas"] == 2
    assert "Traceback" not in served.said()
