"""The estimate of a GPU's memory: what it counts, and the line that makes a run fit."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sdxl.backends.torch import BACKEND
from sdxl.backends.torch import memory as needs
from sdxl.config import footprint
from sdxl.core import gpu
from sdxl.core.types import Embeddings
from sdxl.model import architecture, networks
from sdxl.model.seeded import RandomSource

META = torch.device("meta")
H100 = 85 * 10**9
REAL = ("model=sdxl_random", "precision=bf16", "rules=open")


class Alive(TorchDispatchMode):
    """The most bytes of results that were alive at once."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in tree_iter(out):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                key = storage._cdata
                if key not in self.known:
                    self.known[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.gone, key)
        self.most = max(self.most, self.now)
        return out

    def gone(self, key):
        self.now -= self.known.pop(key, 0)


@torch.inference_mode()
def test_the_estimate_is_above_what_the_networks_hold_and_not_twice_as_much():
    source = RandomSource(architecture.SDXL, 0, None, through_fp32=False)
    made = {n: source.component(n, torch.bfloat16, META) for n in ("unet", "vae")}
    for name, module in made.items():
        assert sum(p.numel() for p in module.parameters()) == footprint.PARAMETERS[name]
    pixels, rows = 1024 * 1024, 4
    half = {"dtype": torch.bfloat16, "device": META}
    with Alive() as seen:
        made["vae"].decode(torch.empty(rows, 4, 128, 128, **half))
    values = seen.most / 2 / rows / pixels
    assert values * 1.1 < needs.VAE_VALUES < values * 1.5, values
    given = Embeddings(*(torch.empty(rows, *n, **half) for n in ((77, 2048), (1280,), (6,))))
    sample = torch.empty(rows, 4, 128, 128, **half)
    with Alive() as seen:
        networks.predict(made["unet"], sample, torch.zeros((), device=META), given)
    values = seen.most / 2 / rows / pixels
    assert values * 1.1 < needs.UNET_VALUES < values * 1.5, values


def test_only_what_the_level_quantizes_holds_a_byte_a_weight(load):
    weights = [
        needs.needed_bytes(load(*REAL, "quant=fp8", f"quant_level={level}", *more))["weights"]
        for level, more in (
            (1, []),
            (1, ["backend.execution=real"]),
            (3, ["backend.execution=real"]),
        )
    ]
    saved = [weights[0] - each for each in weights[1:]]
    unet = footprint.PARAMETERS["unet"]
    assert saved[0] == pytest.approx(0.125 * unet, rel=0.01) and saved[1] > 0.9 * unet


def refusal(load, *words, memory=H100):
    return [p.fix for p in needs.problems_of(load(*REAL, *words), memory)]


def test_the_line_to_type(load):
    assert not refusal(load, "backend.batch_size=32")
    (fix,) = refusal(load, "backend.batch_size=32", "backend.decode_batch_size=null")
    assert fix.startswith("backend.decode_batch_size=")
    assert not refusal(load, "backend.batch_size=32", fix), "what it says does fit"
    more = fix.partition("=")[2]
    assert refusal(load, "backend.batch_size=32", f"backend.decode_batch_size={int(more) + 1}")
    (fix,) = refusal(load, "backend.batch_size=512")
    assert not refusal(load, *fix.split())
    (fix,) = refusal(load, "precision=fp32", memory=12 * 2**30)
    assert "precision=bf16" in fix
    assert not list(needs.problems_of(load("backend.batch_size=512"), 2**20)), "miniature"


def test_it_is_asked_before_the_run(load, monkeypatch):
    found = gpu.Gpu("H100", (9, 0), H100, "580")
    monkeypatch.setattr(gpu, "find", lambda: (found, ""))
    words = (*REAL, "backend.batch_size=64", "backend.decode_batch_size=null")
    (problem,) = BACKEND.missing(load(*words))
    assert "will not fit" in problem.what and "79.2 there" in problem.got
    assert not list(BACKEND.missing(load(*words, "model.device=cpu")))


@pytest.mark.parametrize("rung", ["fp8", "graphs", "overlap"])
def test_rungs_at_batch_32_fit_an_h100(load, rung):
    assert not refusal(load, f"+rung={rung}", "backend.batch_size=32")
