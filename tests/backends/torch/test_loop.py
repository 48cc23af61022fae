"""The torch backend's own denoise loop: the sampler's numbers, and no word from the host."""

import os
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdxl.backends.torch import BACKEND
from sdxl.backends.torch.config import Graphs
from sdxl.backends.torch.loop import Denoiser, plain_step
from sdxl.backends.torch.tables import TableDenoiser
from sdxl.core.errors import ConfigError
from sdxl.core.types import Embeddings
from sdxl.model import prompts
from sdxl.model.architecture import SCHEDULER
from sdxl.model.sampler import Sampler
from sdxl.model.schedulers import Schedule
from sdxl.model.sources import open_source

SMALL = ("rules=open", "model.steps=3", "model.height=64", "model.width=64",
         "model.noise=per_prompt")  # fmt: skip
CPU = torch.device("cpu")


def sampler(load, *words):
    config = load(*SMALL, *words)
    stages = BACKEND.open(config, {})
    chosen = prompts.load(config.dataset, 4, 0)
    return Sampler(stages, open_source(config.model, 0), config, chosen)


@pytest.mark.parametrize("words", [(), ("model.guidance=1",)], ids=["guided", "unguided"])
def test_every_loop_draws_the_same(load, words):
    ours = sampler(load, *words)
    assert ours.describe()["loop"]["kind"] == "static"
    shared = sampler(load, "backend.loop=scheduler", *words)
    assert shared.describe()["loop"] == {"kind": "scheduler"}
    theirs = sampler(load, "backend.loop=pipeline", *words)
    # One batch after another through the same buffers, and another shape between.
    for indices in ([0, 1], [2], [3, 2]):
        expected = shared.latents(indices)
        torch.testing.assert_close(ours.latents(indices), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(theirs.latents(indices), expected, rtol=1e-4, atol=1e-4)


def test_the_device_is_named(load):
    stages = sampler(load).stages
    assert stages.describe()["device_name"] == "cpu"
    stages.device = torch.device("mps")  # not the processor, whose peak is measured
    assert stages.describe()["device_name"] == "mps"


def test_a_batch_is_not_overwritten_by_the_next(load):
    ours = sampler(load)
    first = ours.latents([0])
    kept = first.clone()
    assert not torch.equal(ours.latents([1]), first) and torch.equal(first, kept)


class Watch(TorchDispatchMode):
    """Notes every operation that gives a number to the host, and how many there were."""

    TELLS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select")

    def __init__(self):
        super().__init__()
        self.told, self.seen = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.seen.append(name)
        if name in self.TELLS:
            self.told.append(name)
        return func(*args, **(kwargs or {}))


def test_nothing_is_told_to_the_host_between_the_steps(load):
    ours = sampler(load)
    embeddings = ours._embeddings(range(2))
    noise = ours._noise([0, 1])
    ours.stages.denoise(embeddings, noise)  # the buffers are there
    with Watch() as watch, torch.inference_mode():
        ours.stages.denoise(embeddings, noise)
    assert len(watch.seen) > 100 and not watch.told
    with Watch() as watch, torch.inference_mode():
        ours._loop(embeddings, noise, [0, 1], None)
    assert watch.told, "the scheduler's own loop does: the watch sees it"


def toy(graphs=Graphs.none, guidance=8.0, steps=4):
    from diffusers import EulerDiscreteScheduler

    def unet(sample, timestep, embeddings):
        shift = embeddings.pooled.mean(1).view(-1, 1, 1, 1)
        return torch.tanh(sample + shift) * (timestep / 1000)

    return Denoiser(unet, EulerDiscreteScheduler(**SCHEDULER), steps, guidance, CPU, graphs)


def conditioning(rows, dtype=torch.float32):
    torch.manual_seed(rows)
    return Embeddings(*(torch.randn(rows, size).to(dtype) for size in (3, 5, 6)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guidance", [8.0, 1.0])
def test_the_triton_step_gives_the_plain_steps_latents(guidance, dtype):
    euler = pytest.importorskip("sdxl.backends.torch.kernels.euler")
    plain, fused = toy(guidance=guidance), toy(guidance=guidance)
    assert plain._advance is plain_step
    fused._advance = euler.euler_step
    noise = torch.randn(3, 4, 5, 7).to(dtype)
    given = conditioning(6 if guidance > 1 else 3, dtype)
    expected, found = plain(given, noise), fused(given, noise)
    assert found.dtype is dtype
    # The interpreter rounds bf16 as the kernel asks: to even, like torch.
    torch.testing.assert_close(found, expected, rtol=2e-2 if dtype is torch.bfloat16 else 1e-5,
                               atol=1e-4)  # fmt: skip


class Recorded:
    """Stands for a captured graph: replays a step of the denoiser that made it."""

    def __init__(self, denoiser, buffers, steps):
        self.replays = 0
        self._run = lambda: [denoiser._step(buffers) for _ in range(steps)]

    def replay(self):
        self.replays += 1
        self._run()


@pytest.mark.parametrize(("graphs", "replays"), [(Graphs.step, 4), (Graphs.loop, 1)])
def test_a_step_needs_nothing_but_its_buffers(graphs, replays):
    """What a graph replays reads only what stays: replayed as often as asked, the same latents."""
    plain, ours = toy(), toy(graphs)

    def capture(buffers):
        buffers.at.zero_()
        ours._step(buffers)  # a warm step: must leave no trace
        buffers.graph = Recorded(ours, buffers, 1 if graphs is Graphs.step else 4)

    ours._capture = capture
    for rows in (6, 2, 6):
        noise, given = torch.randn(rows // 2, 4, 5, 7), conditioning(rows)
        assert torch.equal(ours(given, noise), plain(given, noise))
    graphs = [buffers.graph.replays for buffers in ours._buffers.values()]
    assert graphs == [2 * replays, replays]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backend.graphs=step", "backend.loop=pipeline"], "only the loop with buffers"),
        (["backend.compile=default", "backend.loop=pipeline"], "the VAE alone"),
        (["backend.graphs=loop", "backend.compile=max-autotune"], "graphs of its own"),
        (["backend.fusion=false"], "only 8-bit layers are fused"),
        (["backend.overlap=true", "scenario=SingleStream"], "has been answered"),
        (["backend.overlap=true", "backend.devices=[0]"], "workers draw"),
        (["backend.overlap=true", "backend.graphs=none"], "captured graphs"),
        (["backend.overlap=true", "backend.loop=scheduler"], "captured graphs"),
        (["backend.overlap=true", "backend.compile=max-autotune"], "captured graphs"),
    ],
)
def test_settings_that_do_not_go_together(load, words, said):
    with pytest.raises(ConfigError, match=said):
        load(*words)


@pytest.mark.parametrize(
    "word", ["backend.graphs=step", "backend.attention=cudnn", "backend.overlap=true"]
)
def test_what_needs_cuda_says_so(load, word):
    config = load("model.device=cpu", word)
    assert [p.what for p in BACKEND.missing(config)] == [f"`{word}` needs CUDA"]
    with pytest.raises(ConfigError, match="needs CUDA"):
        BACKEND.open(config, {})


def test_what_is_no_table_is_drawn_by_the_sampler_and_said_or_refused(load):
    from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

    config = load(*SMALL)
    stages = BACKEND.open(config, {})
    velocity = EulerDiscreteScheduler(**SCHEDULER | {"prediction_type": "v_prediction"})
    assert isinstance(stages._loop(config, Schedule(velocity, 3)), TableDenoiser)
    plain = stages._loop(config, Schedule(EulerDiscreteScheduler(**SCHEDULER), 3))
    assert type(plain) is Denoiser, "Euler and noise: the one with a kernel of its own"
    other = Schedule(UniPCMultistepScheduler(**SCHEDULER), 5)
    stages.loop = stages._loop(config, other)
    assert stages.loop is None
    said = stages.describe()["loop"]
    assert said == {"kind": "scheduler", "because": "UniPCMultistepScheduler is no table of steps"}
    stages.settings = replace(stages.settings, graphs=Graphs.step, overlap=True)
    with pytest.raises(ConfigError, match="UniPCMultistepScheduler") as refused:
        stages._loop(config, other)
    assert "`backend.overlap=true backend.graphs=step` needs" in str(refused.value)


@pytest.mark.parametrize(
    ("before", "kept"), [(None, False), ("/tmp/torchinductor_me", False), ("/mine", True)]
)
def test_what_is_compiled_lies_in_the_store_unless_the_user_says_otherwise(
    monkeypatch, tmp_path, before, kept
):
    from sdxl.backends.torch.compile import FOLDERS, use_store

    monkeypatch.setattr("sdxl.backends.torch.compile.TEMPORARY", "/tmp/torchinductor_*")
    for name in FOLDERS:
        monkeypatch.setenv(name, before or "")
        if before is None:
            monkeypatch.delenv(name)
    found = use_store()
    for name, folder in FOLDERS.items():
        place = tmp_path / "store" / "compiled" / folder
        assert str(found[name]) == (before if kept else str(place)) == os.environ[name]


@pytest.mark.parametrize(
    ("words", "by_shape"),
    [((), False), (("backend.loop=scheduler",), False), (("backend.loop=pipeline",), False),
     (("backend.attention=auto",), True), (("backend.compile=default",), True)],
)  # fmt: skip
def test_batches_are_padded_only_where_a_size_must_be_prepared(load, words, by_shape):
    made = sampler(load, *words)
    assert made.describe()["by_shape"] is by_shape
    if made.stages.loop and hasattr(made.stages.loop, "graphs"):
        made.stages.loop.graphs = Graphs.step
        assert made.describe()["by_shape"] is True
