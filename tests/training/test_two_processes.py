"""Training in two processes: the losses of one, and an end."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

LEAVE = """
import os, sys
from datetime import timedelta
from pathlib import Path
import torch
from accelerate.state import AcceleratorState
import torch.distributed as dist
from sdxl.core.errors import UserError
from sdxl.training import alone, loop, machine
from tests.training.test_loop import Stage, settings

sys.setswitchinterval(10)  # whoever has the interpreter's lock keeps it
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
for number in range(15):
    store = dist.FileStore(str(folder / f"store{number}"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for stage in "ab":  # one after the other, as with -m
        loop.train(Stage(), settings(steps=1), 0, folder / f"{number}{stage}", lambda *_: None)
    assert machine.part(1 + 2 * rank, torch.device("cpu")) == (0.5, 1.5)[rank]
    (folder / "file").touch()
    try:  # the first alone looks, and both end
        with alone.held(folder / "file", ""):
            raise AssertionError
    except UserError as error:
        assert "file cannot be written" in str(error)
    machine.leave()
    assert not dist.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=True)
"""


def test_processes_end_together_time_and_again(tmp_path):
    """Either hung once in a few ends, when its model was freed after the process group."""
    env = {**os.environ, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
           "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29714"}  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVE, str(tmp_path)],
            cwd=ROOT, env={**env, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=150)[1].decode() for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said


def test_two_processes_have_the_losses_of_one(tmp_path, cli):
    given = ["train=smoke", "train.steps=3", "train.scenes=128", "tracking=off"]
    alone = cli(*given, "train.run=one", script="train.py", timeout=300)
    assert alone.code == 0, alone.err
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29713"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    pair = subprocess.run(
        [sys.executable, *command, "train.py", *given, "train.run=two"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert pair.returncode == 0, pair.stderr[-3000:]
    values = []
    for run in ("one", "two"):
        log = tmp_path / "store" / "training" / run / "vae" / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        values.append([line["loss"] for line in lines if line["kind"] == "step"])
    assert len(values[0]) == 3
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    mllog = (tmp_path / "store" / "training" / "one" / "vae" / "mllog.txt").read_text()
    lines = [json.loads(line.removeprefix(":::MLLOG ")) for line in mllog.splitlines()]
    keys = [line["key"] for line in lines]
    assert {"seed", "global_batch_size", "eval_accuracy"} < set(keys)
    assert keys.index("init_start") < keys.index("init_stop") < keys.index("run_start")
    assert keys[-1] == "run_stop" and lines[-1]["metadata"]["status"] == "success"
