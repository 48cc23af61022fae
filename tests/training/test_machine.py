"""Processes and devices: who trains together, and on which GPU each of them is."""

import os
import socket
from types import SimpleNamespace

import accelerate.state
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from sdxl.config.choices import Device, DType
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import machine


@pytest.fixture
def started(monkeypatch):
    """Sets the variables of a launcher; what was asked of `accelerate` comes back."""
    asked = []

    class State(SimpleNamespace):
        _shared_state = {}

        def __init__(self, cpu, timeout):
            found = cpu or torch.cuda.is_available()
            asked.append(cpu)
            super().__init__(
                num_processes=int(os.environ["WORLD_SIZE"]) if found else 1,
                device=torch.device("cpu" if cpu or not found else "cuda"),
            )

    def start(cuda=0, **variables):
        for name in ("ACCELERATE_USE_CPU", "RANK", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "set_device", asked.append)
        monkeypatch.setattr(accelerate.state, "PartialState", State)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return asked

    monkeypatch.setattr(machine, "_asked", Device.auto)  # and what it was before comes back
    return start


TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def test_processes_without_a_gpu_meet_on_their_cpus(started):
    asked = started(**TWO)
    machine.use(Device.auto)
    assert machine.processes() == 2 and asked == [True]


def test_processes_that_do_not_meet_are_refused(started, monkeypatch):
    started(**TWO)
    alone = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    monkeypatch.setattr(accelerate.state.PartialState, "__new__", lambda *_, **__: alone)
    for asked, fix in ((Device.auto, "torchrun --nproc-per-node N"), (Device.cpu, "model.device=")):
        monkeypatch.setattr(machine, "_asked", asked)
        with pytest.raises(UserError, match="WORLD_SIZE=2 on cpu: 1 on cpu") as caught:
            machine.rank()
        assert fix in str(caught.value)


def test_the_asked_cpu_is_where_a_training_is(started):
    asked = started(cuda=8, **TWO)
    machine.use(Device.cpu)
    assert machine.processes() == 2 and asked == [True]


def test_a_plan_for_another_machine_needs_no_device(started):
    assert started(cuda=0, **TWO) == []
    machine.use(Device.cuda, plan=True)
    with pytest.raises(UserError, match="no cuda device"):
        machine.use(Device.cuda)
    machine.use(Device.auto)
    assert machine.processes() == 2


def test_the_next_job_of_a_command_may_be_on_another_device(started, monkeypatch):
    asked = started(cuda=1, WORLD_SIZE="1")
    before = {"distributed_type": accelerate.state.DistributedType.NO,
              "device": torch.device("cuda")}  # fmt: skip
    monkeypatch.setattr(accelerate.state.PartialState, "_shared_state", before)
    monkeypatch.setattr(
        accelerate.state.AcceleratorState, "_reset_state", lambda **how: asked.append(how)
    )
    machine.use(Device.cpu)
    assert machine.processes() == 1 and asked == [{"reset_partial_state": True}, True]


@pytest.mark.parametrize(("seen", "own"), [(8, 5), (1, 0)])
def test_each_process_is_on_its_own_gpu_before_anything_is_put_on_one(started, seen, own):
    """All of a node seen by each task, or only the one that Slurm gives it."""
    asked = started(cuda=seen, RANK="5", WORLD_SIZE="8", LOCAL_RANK="5")
    machine.use(Device.auto)
    assert asked == [own] and os.environ["LOCAL_RANK"] == str(own)
    machine.use(Device.auto)
    assert asked == [own, own]


def test_two_processes_on_one_gpu_are_refused(started, monkeypatch):
    """More were started than the node has: the number wraps around."""
    started(cuda=1, **TWO)
    machine._refuse_shared.cache_clear()
    store = torch.distributed.HashStore()
    store.set("gpu/0", f"{socket.gethostname()} GPU-a")
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(accelerate.state.PartialState, "process_index", 1, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    seen = SimpleNamespace(uuid="GPU-a")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: seen)
    machine.use(Device.auto)
    for _ in range(2):  # the next job of the command, too
        with pytest.raises(UserError, match="processes: 2, GPUs: 1") as caught:
            machine.processes()
    assert caught.value.problems[0].fix == "torchrun --nproc-per-node 1 train.py ..."
    seen.uuid = "GPU-b"
    assert machine.processes() == 2
    machine._refuse_shared.cache_clear()


@pytest.mark.parametrize(("arithmetic", "plain"), [(DType.fp32, False), (DType.bf16, True)])
def test_attention_is_fused_where_that_is_faster(arithmetic, plain):
    layer = Attention(8, heads=2, dim_head=4)
    machine.plain_attention(layer, torch.device("cpu"), arithmetic)
    assert isinstance(layer.processor, AttnProcessor if plain else AttnProcessor2_0)
    machine.plain_attention(other := Attention(8, heads=2), torch.device("cuda"), arithmetic)
    assert isinstance(other.processor, AttnProcessor2_0), "a GPU has kernels of its own"


GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:48363: "
    "Connection reset by peer. This is typically caused by a remote worker hanging."
)


@pytest.mark.parametrize(("world", "said", "kind"), [
    ("2", GLOO, SdxlError), ("2", "NCCL error: remote process exited", SdxlError),
    ("1", GLOO, RuntimeError), ("2", "mat1 and mat2 shapes cannot be multiplied", RuntimeError),
])  # fmt: skip
def test_a_process_that_is_gone_is_told_by_the_others(monkeypatch, world, said, kind):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(Exception) as caught, machine.loss_told():
        raise RuntimeError(said)
    assert caught.type is kind
    if kind is SdxlError:
        (problem,) = caught.value.problems
        assert problem.what == "another process of this training is gone"
        assert problem.got == said.partition(". This")[0]
        assert "the same command again" in problem.fix
