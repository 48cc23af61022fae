"""Who trains together: the ranks of launchers, and tasks that know nothing of each other."""

import json
import os

import pytest

from sdxl.core.errors import UserError
from sdxl.training import launch

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "gpu[003-006,9]", "SLURM_JOB_ID": "4711"}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_", "OMPI_", "PMI_")) or name in NAMES:
            monkeypatch.delenv(name)
    for name in NAMES:  # taken away again at the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_step_of_srun_has_its_ranks(environment):
    for name, value in STEP.items():
        environment.setenv(name, value)
    launch.settle()
    found = [os.environ[name] for name in NAMES[:4]]
    assert found == ["5", "16", "1", "gpu003"]
    port = os.environ["MASTER_PORT"]
    for name in NAMES:
        environment.delenv(name)
    environment.setenv("SLURM_PROCID", "0")
    launch.settle()
    assert os.environ["MASTER_PORT"] == port and os.environ["RANK"] == "0", "all tasks meet"
    for name in NAMES:
        environment.delenv(name)
    environment.setenv("SLURM_STEP_ID", "1")
    launch.settle()
    assert os.environ["MASTER_PORT"] != port, "two steps of a job run at once"
    environment.setenv("RANK", "3")  # torchrun's own word counts
    launch.settle()
    assert os.environ["RANK"] == "3"


def test_a_single_process_in_a_job_of_many_tasks_is_alone(environment):
    environment.setenv("SLURM_NTASKS", "8")  # of the batch script, which srun has not started
    environment.setenv("SLURM_PROCID", "0")
    launch.settle()
    assert "RANK" not in os.environ
    assert [launch.first_host(each) for each in ("a", "a,b", "n[12,14]")] == ["a", "a", "n12"]


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_tasks_without_ranks_are_refused(environment, name):
    environment.setenv(name, "4")
    with pytest.raises(UserError, match="4 tasks were started") as caught:
        launch.settle()
    assert "torchrun" in str(caught.value)


@pytest.mark.slow
def test_two_tasks_of_submitit_have_the_losses_of_one_process(cli, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    given = ["train=smoke", "train.steps=3", "train.scenes=128", "tracking=off"]
    env = {"CUDA_VISIBLE_DEVICES": ""}
    alone = cli(*given, "train.run=one", script="train.py", env=env)
    assert alone.code == 0, alone.err
    pair = cli("-m", *given, "train.run=two", "hydra/launcher=submitit_local",
               "hydra.launcher.tasks_per_node=2", script="train.py", timeout=300,
               env=env)  # fmt: skip
    assert pair.code == 0, pair.err + pair.out
    found = []
    for run in ("one", "two"):
        log = tmp_path / "store" / "training" / run / "vae" / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        found.append([line["loss"] for line in lines if line["kind"] == "step"])
    assert len(found[0]) == 3 and found[1] == pytest.approx(found[0], rel=1e-4)
    record = json.loads((tmp_path / "store/training/two/vae/record.json").read_text())
    assert record["training"]["processes"] == 2


def test_of_several_processes_the_first_speaks(monkeypatch, capsys):
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        launch.say(f"to draw with it, says {rank}")
    assert capsys.readouterr().err == "to draw with it, says 0\n"
