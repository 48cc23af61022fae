"""Over HTTP nothing is silently ignored: what no request carries is refused."""

import pytest

from sdxl.config.derive import batch_size
from sdxl.core.errors import ConfigError
from sdxl.run.figures import incomparable

HTTP = "backend=http"


def test_each_picture_is_a_request_and_the_record_says_how_it_was_measured(load):
    config = load(HTTP, "backend.url=https://example.org/x", "model=tiny")
    assert batch_size(config) == 1
    assert "measured over HTTP: https://example.org/x" in incomparable(config, 8)[0]
    assert batch_size(load(HTTP, "scenario=MultiStream")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backend.url=example.org"], "`backend.url` is no address"),
        (["backend.url='http://h?x=1'"], "`backend.url` is no address"),
        (["backend.url='http://[::1'"], "`backend.url` is no address"),
        (["backend.url='http://h:port'"], "`backend.url` is no address"),
        (["backend.url='http://me:pw@h'"], "the login in `backend.url` would be ignored"),
        (["backend.batch_size=8"], "the server makes the batches"),
        (["backend.devices=[0,1]"], "the server has the devices"),
        (["scenario=SingleStream", "backend.concurrency=4"], "SingleStream asks for one"),
        (["rules=closed", "model=tiny"], "closed division"),
        (["foreign=error"], "other people's"),
        (["quant=int8", "quant_level=3"], "baseline would be measured on the same server"),
        (["model.device=cpu"], "`model.device` would be ignored"),
        (["backend.dialect=openai", "model.steps=4"], "`model.steps` would be ignored"),
        (["backend.dialect=openai", "precision=bf16"], "`precision` would be ignored"),
        (["backend.dialect=openai", "scheduler=ddim"], "`scheduler` would be ignored"),
        (["backend.dialect=openai", "shortcut=deepcache"], "`shortcut` would be ignored"),
        (
            ["backend.dialect=openai", "quant=int8", "quality.baseline=false"],
            "`quant` would be ignored",
        ),
        (["backend.timeout_s=0"], "`backend.timeout_s`"),
        (["backend.concurrency=0"], "`backend.concurrency`"),
    ],
)
def test_what_no_request_carries_is_refused(load, words, said):
    with pytest.raises(ConfigError) as refused:
        load(HTTP, *words)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["model.steps=4", "precision=bf16", "scheduler=ddim"],
        ["shortcut=deepcache"],
        ["quant=int8", "quant_level=3", "quality.baseline=false"],
        ["backend.dialect=openai", "size=256x128"],
        ["scenario=SingleStream"],
    ],
)
def test_what_the_server_is_asked_about_is_taken(load, words):
    load(HTTP, *words)
