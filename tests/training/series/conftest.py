"""A series of weights as a training leaves it, without the training."""

import pytest
import torch

from sdxl.config.load import load as checked
from sdxl.training import mllog
from sdxl.training.series import weights
from sdxl.training.stages import sd2_mlperf
from sdxl.training.stages.sd2_pictures import Pictures
from tests.quality.conftest import metric_files, training_files  # noqa: F401

WORDS = ("train=sd2_mlperf", "model=tiny", "model.height=64", "model.width=64",
         "train.eval_prompts=9", "train.eval_steps=2", "train.eval_batch=4")  # fmt: skip
BATCH = 16


@pytest.fixture
def config(composed):
    return lambda *words: checked(composed(*WORDS, *words, name="train"))


@pytest.fixture(scope="session")
def _networks(tmp_path_factory):
    """Three UNets, and the identity of the parts that show their latents."""
    folder = tmp_path_factory.mktemp("series")
    for step in (2, 4, 6):
        torch.manual_seed(step)
        network = sd2_mlperf._unet(sd2_mlperf.Sd2Network.sd2_tiny)
        weights.keep(folder, step, step * BATCH, network.save_pretrained)
    return folder


@pytest.fixture
def series(_networks, tmp_path, config):
    """The folder of a training that kept weights after 2, 4 and 6 of its 7 steps."""
    folder = tmp_path / "training"
    facts = {"stage": "sd2_mlperf", "words": [*WORDS], "parts": Pictures(config()).identity}
    weights.begin(folder, facts, 0)
    for kept in (_networks / weights.FOLDER).iterdir():
        (folder / weights.FOLDER / kept.name).symlink_to(kept)
    log = mllog.Log(folder / "mllog.txt")
    told = mllog.Told(99, 3, seed=5, benchmark="stable_diffusion", division="closed")
    given = config("train.batch=16").train
    log.begin(given, told, 1_000, 2_000)
    for step in range(1, 8):
        log.step(step * BATCH)
        if step % 2 == 0:
            log.kept(step * BATCH, {})
    log.evaluating(7 * BATCH, {})
    log.evaluation(7 * BATCH, {"FID": 1.0, "CLIP": 1.0})
    log.end("FINISHED")
    return folder
