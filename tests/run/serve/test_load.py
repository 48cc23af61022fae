"""A slice of `benchmarks/serve_load.py`, and that it would notice what it looks for."""

import json
import random

import numpy as np

from tests.run.serve import conftest  # noqa: F401  finds the benchmarks

import _serve  # isort: skip
import serve_load  # isort: skip


def test_a_few_seconds_of_load():
    """Clients, slow ones, odd requests, a killed worker, an overflow: nothing is lost."""
    words = ("backend=fake", "backend.latency_ms=20", "--queue", "16", "--batch", "8")
    with _serve.Served(*words) as served:
        found = serve_load.attack(served, 4.0, 16, 60)
    assert found["wrong"] == [] and found["replaced"]
    assert found["pictures"] > 50 and served.code == 0
    assert served.line["deaths"] == 1
    assert "Traceback" not in served.said()


def test_odd_requests_are_of_many_kinds_and_the_same_each_time():
    made = [_serve.odd_request(random.Random(seed)) for seed in range(100)]
    assert made == [_serve.odd_request(random.Random(seed)) for seed in range(100)]
    assert len({body for body, _ in made}) > 60


def test_what_is_wrong_is_noticed():
    account = _serve.Account()
    good, bad = (answer(np.full((8, 8, 3), value, np.uint8)) for value in (9, 99))
    account.take(1, 200, good, 0.1)
    account.take(1, 429, b"", 0.1)
    assert not account.wrong
    account.take(1, 200, bad, 0.1)
    account.take(2, 500, b"oh", 0.1)
    assert account.wrong == ["seed 1: another picture", "500: b'oh'"]
    assert serve_load.grown([1, *[100] * 50, *[110] * 10]) > serve_load.GROWTH


def answer(picture):
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return json.dumps({"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}).encode()
