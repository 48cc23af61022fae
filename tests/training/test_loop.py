"""Training: the same losses whether unbroken or resumed."""

import errno
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch._dynamo.utils import counters

from sdxl.config.choices import DType
from sdxl.config.schema.train import Training
from sdxl.core import store
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import checkpoint, loop, machine


class Fit(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x, noise):
        return {"loss": (self.net(x + 0.1 * noise) - x.sum(1, keepdim=True)).square().mean()}


class Stage:
    """A small regression in place of a network."""

    count = 40

    def __init__(self):
        self.module = Fit()
        self.data = torch.randn(self.count, 4, generator=torch.Generator().manual_seed(1))
        self.exported = []

    def batch(self, batch, device):
        return {"x": self.data[torch.from_numpy(batch.rows)], "noise": batch.draw("noise", 4)}

    def evaluate(self, device):
        return {"weight": float(self.module.net[0].weight.detach().sum())}, None

    def export(self, folder):
        (folder / "weights").write_text("...")
        self.exported.append(folder)


def settings(**changes):
    base = {
        "name": "fit",
        "steps": 12,
        "batch": 8,
        "warmup_steps": 2,
        "lr": 0.05,
        "checkpoint_s": 1e9,
    }
    return Training(**{**base, **changes})


def losses(folder, **changes):
    seen = {}
    stage = Stage()

    def report(kind, samples, figures, picture):
        if kind == "step":
            seen[samples // 8] = figures["loss"]

    found = loop.train(stage, settings(**changes), 0, folder, report)
    return seen, stage, found


def test_a_training_that_was_stopped_goes_on_to_the_bit(tmp_path):
    whole, stage, _ = losses(tmp_path / "whole")
    first, *_ = losses(tmp_path / "parts", max_s=0.0)  # stops, resumable, after the first step
    assert list(first) == [1]
    rest, resumed, found = losses(tmp_path / "parts")
    assert found["resumed_at"] == 1 and found["step"] == 12
    assert first | rest == whole
    for one, other in zip(stage.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(one, other)
    averages = [checkpoint.averaged(tmp_path / name / loop.FILE) for name in ("whole", "parts")]
    assert all(torch.equal(averages[0][k], averages[1][k]) for k in averages[0])
    assert whole[12] < whole[1] / 2, "it learns"
    again, *_ = losses(tmp_path / "parts")
    assert not again, "nothing is left to do"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_has_the_same_losses_and_goes_on_to_the_bit(tmp_path):
    plain, *_ = losses(tmp_path / "plain")
    torch._dynamo.reset()
    counters.clear()
    whole, *_ = losses(tmp_path / "whole", compile=True)
    assert counters["stats"]["unique_graphs"] > 0, "compiled, though the one before it was not"
    first, *_ = losses(tmp_path / "parts", compile=True, max_s=0.0)
    rest, *_ = losses(tmp_path / "parts", compile=True)
    assert first | rest == whole
    assert [whole[n] for n in plain] == pytest.approx(list(plain.values()), rel=1e-5)


def test_without_a_compiler_the_word_to_type_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no no-such-compiler") as caught:
        losses(tmp_path, compile=True)
    assert "train.compile=false" in str(caught.value)


def test_other_settings_do_not_resume(tmp_path):
    losses(tmp_path)
    with pytest.raises(UserError, match="lr"):
        losses(tmp_path, lr=0.5)
    seen, *_ = losses(tmp_path, lr=0.5, restart=True)
    assert len(seen) == 12


def test_evaluation_is_of_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path):
    _, stage, found = losses(tmp_path)
    average = checkpoint.averaged(tmp_path / loop.FILE)["net.0.weight"]
    assert found["weight"] == pytest.approx(float(average.sum()), abs=1e-6)
    assert not torch.equal(stage.module.net[0].weight, average)
    assert len(stage.exported) == 1 and not stage.exported[0].exists(), "written beside"
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["weights"]


@pytest.mark.parametrize("stops", [(12,), (5, 12)])
def test_evaluations_on_the_way_come_at_their_samples_and_change_nothing(tmp_path, stops):
    seen, expected = [], losses(tmp_path / "none")[0]
    for steps in stops:
        given, stage = settings(steps=steps, evaluate_every=30), Stage()  # of 8: each fourth step
        loop.train(
            stage, given, 0, tmp_path / "some",
            lambda kind, samples, figures, _: seen.append((kind, samples, figures)),
        )  # fmt: skip
    assert [found["loss"] for kind, _, found in seen if kind == "step"] == [*expected.values()]
    ends = [steps * 8 for steps in stops]
    for kind in ("evaluating", "evaluation"):
        places = [samples for each, samples, _ in seen if each == kind]
        assert places == sorted({32, 64, 96, *ends})
    weights = [found["weight"] for kind, _, found in seen if kind == "evaluation"]
    assert len({*weights}) == len(weights) == len(stage.exported) + (len(stops) > 1) * 2


def test_an_export_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    losses(tmp_path)

    def half(self, folder):
        (folder / "weights").write_text(".")
        raise OSError("full")

    monkeypatch.setattr(Stage, "export", half)
    with pytest.raises(OSError, match="full"):
        losses(tmp_path, steps=13)
    assert (tmp_path / "model" / "weights").read_text() == "..."
    assert sorted(file.name for file in tmp_path.iterdir()) == [loop.FILE, "model"]


def test_stages_of_one_process_have_their_own_precision(tmp_path):
    found = [
        losses(tmp_path / name, arithmetic=DType[name])[0] for name in ("fp32", "bf16", "fp32")
    ]
    alone, *_ = losses(tmp_path / "alone")
    assert found[0] == alone and not found[2], "the third goes on from the first, which is done"
    assert found[1] != alone
    assert list(found[1].values()) == pytest.approx(list(alone.values()), rel=0.2)


def test_a_discarded_training_does_not_come_back(tmp_path, monkeypatch):
    losses(tmp_path)
    monkeypatch.setattr(checkpoint, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed before its first checkpoint
        losses(tmp_path, restart=True)
    monkeypatch.undo()
    seen, *_ = losses(tmp_path)
    assert list(seen) == list(range(1, 13)), "from the beginning"


def test_a_checkpoint_is_replaced_whole(tmp_path, monkeypatch):
    losses(tmp_path)
    before = (tmp_path / loop.FILE).read_bytes()

    def half(_, path, __):
        path.write_bytes(before[: len(before) // 2])
        raise OSError("full")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="full"):
        losses(tmp_path, steps=13)
    assert (tmp_path / loop.FILE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [loop.FILE, "model"], "no half is left"


def test_a_disk_that_is_full_is_said_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    losses(tmp_path)
    full = SafetensorError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(SdxlError, match=f"no space left on the disk of {tmp_path}") as caught:
        losses(tmp_path, steps=13)
    assert "os error 28" in str(caught.value) and "the same command again" in str(caught.value)
    assert checkpoint.steps_done(tmp_path / loop.FILE) == 12


def test_another_disk_that_is_full_is_not_that_of_the_training(tmp_path):
    stage, full = Stage(), OSError(errno.ENOSPC, "No space left on device", "/caches/kernel.so")
    stage.evaluate = lambda _: (_ for _ in ()).throw(full)
    with pytest.raises(OSError) as caught:
        loop.train(stage, settings(), 0, tmp_path, lambda *_: None)
    assert caught.value is full
    for place, fix in ((tmp_path, None), (store.root() / "x", store.FIX)):
        with pytest.raises(SdxlError, match=r"of /caches/kernel\.so") as said, \
                store.fullness_said(place):  # fmt: skip
            raise full
        assert said.value.problems[0].fix == fix


def test_a_training_that_ended_before_its_export_exports_when_typed_again(tmp_path, monkeypatch):
    write = Stage.export
    monkeypatch.setattr(Stage, "export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        losses(tmp_path)
    monkeypatch.setattr(Stage, "export", write)
    seen, stage, found = losses(tmp_path)
    assert not seen and len(stage.exported) == 1 and "weight" in found
    _, stage, _ = losses(tmp_path)
    assert not stage.exported, "once is enough"


def test_every_row_comes_once_in_an_epoch_and_epochs_differ():
    rows = [loop.rows_of(step, 8, 40, 0) for step in range(10)]
    first, second = (np.concatenate(rows[half]).tolist() for half in (slice(5), slice(5, 10)))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_gradients_that_are_no_numbers_end_it_before_they_are_kept(tmp_path):
    stage = Stage()
    batch, forward = stage.batch, stage.module.forward

    def cornered(x, noise, step):
        """The loss is a number, its derivative at 0 is none."""
        found = forward(x, noise)["loss"]
        corner = (stage.module.net[0].weight * 0).abs().sqrt().sum()
        return {"loss": found + corner if step == 2 else found}

    stage.module.forward = cornered
    stage.batch = lambda given, device: {**batch(given, device), "step": given.step}
    with pytest.raises(SdxlError, match="norm of the gradients of step 3 is not finite") as caught:
        loop.train(stage, settings(checkpoint_s=0.0), 0, tmp_path, lambda *_: None)
    assert caught.value.problems[0].fix == "train.lr=0.025 train.run=ANOTHER_NAME"
    assert checkpoint.steps_done(tmp_path / loop.FILE) == 2
    kept = checkpoint.averaged(tmp_path / loop.FILE).values()
    assert all(torch.isfinite(value).all() for value in kept)


def test_processes_that_see_different_checkpoints_do_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gathered", lambda done: [done, 7])
    with pytest.raises(UserError, match="do not see the same checkpoint") as caught:
        losses(tmp_path)
    assert "process 0: 0, process 1: 7" in str(caught.value)


def test_rows_of_an_epoch_are_ordered_once(monkeypatch):
    made, generator = [], np.random.default_rng
    loop._order.cache_clear()
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed: (made.append(seed), generator(seed))[1]
    )
    rows = np.concatenate([loop.rows_of(step, 8, 20, 3) for step in range(5)])
    assert made == [[3, 0], [3, 1]]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20)) and [*rows[:20]] != [
        *rows[20:]
    ]


def test_a_checkpoint_of_before_goes_on_where_it_says_nothing_of_its_data(tmp_path):
    def train(steps, **identity):
        loop.train(Stage(), settings(steps=steps), 0, tmp_path, lambda *_: None, identity)
        return checkpoint.steps_done(tmp_path / loop.FILE)

    assert train(1, data=1) == 1
    assert train(2, data=1, parts="one") == 2
    with pytest.raises(UserError, match="other settings: parts") as caught:
        train(3, data=1, parts="another")
    assert caught.value.problems[0].expected == "parts one (model)"
