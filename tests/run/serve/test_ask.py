"""Requests: what is taken, and what is refused by the field that is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.core.types import Order
from sdxl.run.serve import ask
from sdxl.run.serve.refusals import Refused
from tests.run.serve.conftest import configured

SERVED = ask.Setting(configured())


def orders(served=SERVED, **fields):
    return ask.orders_of(ask.read(json.dumps({"prompt": "a cube", **fields}).encode()), served)


def test_openais_fields_and_ours_become_orders():
    whole = {"model": "tiny", "n": 2, "size": "128x128", "response_format": "b64_json", "seed": 7,
             "negative_prompt": "blurry", "steps": 20, "guidance": 4, "user": "me",
             "quality": "auto", "background": "opaque", "output_format": "png",
             "stream": False}  # fmt: skip
    assert orders(**whole) == [Order("a cube", 7, "blurry"), Order("a cube", 8, "blurry")]
    assert orders(size="auto", n=None, seed=None)[0].negative is None
    assert orders()[0].seed != orders()[0].seed


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"prompt": " "}, 400, "prompt", "empty"),
        ({"prompt": None}, 400, "prompt", "string"),
        ({"prompt": "a" * 4001}, 400, "prompt", "4000"),
        ({"n": 0}, 400, "n", "greater"),
        ({"n": 11}, 400, "n", "less"),
        ({"n": 1.0}, 400, "n", "integer"),
        ({"n": True}, 400, "n", "integer"),
        ({"size": "1024x1024"}, 400, "size", "128x128"),
        ({"response_format": "url"}, 400, "response_format", "b64_json"),
        ({"output_format": "jpeg"}, 400, "output_format", "png"),
        ({"stream": True}, 400, "stream", "False"),
        ({"seed": -1}, 400, "seed", "greater"),
        ({"seed": 1 << 32}, 400, "seed", "less"),
        ({"steps": 4}, 400, "steps", "20"),
        ({"guidance": 7.5}, 400, "guidance", "4.0"),
        ({"noise": "shared"}, 400, "noise", "no latent"),
        ({"model": "dall-e-3"}, 404, "model", "tiny"),
        ({"style": "vivid"}, 400, None, "no parameter `style`"),
        ({"moderation": "low"}, 400, None, "no parameter `moderation`"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(fields, status, param, said):
    with pytest.raises(Refused) as refused:
        orders(**fields)
    found = refused.value
    assert (found.status, found.param) == (status, param) and said in found.message
    body = json.loads(found.response().body)["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error" and body["code"]


def test_a_setting_says_what_it_cannot_do():
    alone = ask.Setting(configured("scheduler=euler"), guided=False)
    with pytest.raises(Refused, match="without guidance"):
        orders(alone, negative_prompt="x")
    shares = ask.Setting(configured("model=tiny_random"))
    assert orders(shares, noise="shared", seed=3) == [Order("a cube", 3, None, True)]


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["prompt", "n", "x"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_request_or_refused(body):
    try:
        made = ask.orders_of(ask.read(body), SERVED)
    except Refused as refused:
        assert 400 <= refused.status < 500
    else:
        assert made and made[0].text.strip()
