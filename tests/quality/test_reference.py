"""The reference: for whom it is, what decides its key, drawn once, whole, by one process."""

import threading

import numpy as np
import pytest

from sdxl.config import schema
from sdxl.config.content_key import key
from sdxl.core import store
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.progress import silent
from sdxl.core.types import Build
from sdxl.model import prompts, sources
from sdxl.quality import reference, reference_pictures
from sdxl.quality.beside import Beside

QUICK = ("model=tiny", "quality=fast", "model.steps=1", "rules=open", "limit=20")
SIZE = 128 * 128


class Fake:
    """A sampler whose pictures are known; it counts how many it drew."""

    def __init__(self, config, fail_at=None):
        self.model, self.stages, self.drawn, self.fail_at = config.model, self, 0, fail_at

    def latents(self, indices, on_step):
        on_step(0, 1.0)
        if self.fail_at is not None and self.drawn >= self.fail_at:
            raise RuntimeError("killed")
        self.drawn += len(indices)
        return indices

    def decode(self, indices):
        shape = (len(indices), self.model.height, self.model.width, 3)
        return np.broadcast_to(np.array(indices, np.uint8)[:, None, None, None], shape)

    def describe(self):
        return {"device": "cpu"}


@pytest.fixture
def config(load):
    return load(*QUICK)


def asked(config):
    return reference.chosen(config, prompts.load(config.dataset, config.limit, config.seed))


def get(config, fake, report=silent):
    return reference_pictures.get(config, asked(config), lambda: fake, report)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model=tiny", "quality=fast"), ""),
        (("model=tiny", "quality=fast", "precision=bf16", "backend=ort", "quant=int8"), ""),
        (("model=sdxl", "quality=full"), ""),
        (("model=tiny", "quality=none"), "quality=none"),
        (("model=tiny", "quality=fast", "quality.reference=null"), "null"),
        (("model=tiny", "quality=fast", "backend=fake"), "without a model"),
        (("model=tiny_random", "quality=fast"), "random weights"),
        (("model=sdxl", "quality=mlperf", "mode=accuracy"), "null"),
    ],
)
def test_a_cell_has_one_or_says_why_not(load, words, reason):
    found = reference.absent(load(*words))
    assert (reason in found) if reason else not found


def test_a_dear_model_has_sixteen_and_the_bundled_one_all(load):
    listed = prompts.load(schema.Dataset("builtin"))
    config = load("model=sdxl", "quality=full")
    assert len(reference.chosen(config, listed)) == 16 < len(listed)
    config = load("model=sdxl", "quality=full", "quality.reference_images=24")
    assert len(reference.chosen(config, listed)) == 24
    assert len(asked(load(*QUICK))) == 20


def test_it_is_torch_in_fp32_without_anything_that_makes_it_faster(load):
    found = reference.drawing(
        load("model=tiny", "precision=bf16", "quant=int8", "alpha=0.5", "backend=ort")
    )
    assert found.backend.name == "torch" and found.backend.compile.value == "none"
    fp32 = schema.DType.fp32
    assert found.precision == schema.Precision(fp32, fp32, fp32, auto=False)
    assert found.quant.format is schema.Format.none and found.alpha is None


def identity(load, *words):
    config = load(*QUICK, *words)
    source = sources.open_source(config.model, config.seed)
    return key(reference_pictures.settings_of(config, source))


def test_what_changes_the_picture_by_design_is_another_reference(load):
    base = identity(load)
    for word in ("model.steps=2", "model.height=160", "model.guidance=3", "seed=1",
                 "model.noise=shared", "model.negative_prompt=blurry", "scheduler=ddim",
                 ):  # fmt: skip
        assert identity(load, word) != base, word
    for words in (("precision=bf16",), ("backend=ort",), ("quant=int8",), ("scenario=Server",),
                  ("quality.reference_images=4",), ("model.device=cpu",)):  # fmt: skip
        assert identity(load, *words) == base, words


def test_pictures_are_drawn_once_and_longer_lists_draw_what_is_missing(load, config):
    fake, texts = Fake(config), []
    found = get(config, fake, texts.append)
    assert (found["made"], fake.drawn, len(found["blocks"])) == (20, 20, 2)
    assert texts[-1]["expected"] == 20 and "step 1" in texts[-1]["text"]
    pictures = reference_pictures.read(found["blocks"], asked(config))
    assert [int(pictures[n][0, 0, 0]) for n in range(20)] == [*range(20)]
    assert get(config, None) == {**found, "made": 0}
    longer = load(*QUICK[:-1], "limit=40")
    assert reference_pictures.missing(longer, asked(longer)) == 24
    assert get(longer, Fake(longer))["made"] == 24


def test_a_broken_off_block_is_not_there_and_the_whole_one_before_it_is(config):
    with pytest.raises(RuntimeError, match="killed"):
        get(config, Fake(config, fail_at=16))
    assert reference_pictures.missing(config, asked(config)) == 4
    assert len([*(store.root() / "reference").glob("*/manifest.json")]) == 1
    assert get(config, Fake(config))["made"] == 4


def test_of_two_at_a_time_one_draws(config):
    both = [Fake(config), Fake(config)]
    threads = [threading.Thread(target=get, args=(config, fake)) for fake in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(fake.drawn for fake in both) == 20


def test_build_never_stops_and_says_how_to_go_on(config):
    config.build = Build.never
    with pytest.raises(UserError) as error:
        get(config, Fake(config))
    assert "quality.reference=null" in error.value.problems[0].fix


def test_the_same_pictures_are_identical_and_others_are_measured(config, tmp_path):
    listed = asked(config)
    theirs = {n: np.full((16, 16, 3), 10 * n, np.uint8) for n in range(8)}
    ours = np.stack([theirs[n] for n in range(8)])

    class Scorer:
        def add(self, indices, images):
            return None

        def result(self):
            return {}

    beside = Beside(listed, theirs)
    beside.take(Scorer(), range(8), ours)
    found = beside.result(tmp_path)
    assert found["reference"]["identical"] == 8 and found["reference"]["psnr_db"] is None
    assert found["per_prompt"]["figures"] == ["psnr_db", "ssim", "mean_deviation"]
    other = Beside(listed, theirs)
    other.take(Scorer(), range(12), np.concatenate([ours + 1, ours[:4]]))
    found = other.result(tmp_path)["reference"]
    assert found["images"] == 8 and found["psnr_db"] == pytest.approx(48.13, abs=0.01)
    assert found["intervals"]["psnr_db"] == pytest.approx([48.13, 48.13], abs=0.01)


def test_nothing_is_written_where_nothing_is_known(tmp_path):
    beside = Beside([], {})
    assert beside.result(tmp_path) == {} and not [*tmp_path.iterdir()]


def test_cells_of_several_steps_have_one_reference(load):
    words = ("model=scenes", "quality=fast", "rules=open")
    ten, twenty, beside = (
        load(*words, *more)
        for more in (["model.steps=10"], [], ["model.steps=10", "quality.reference_steps=20"])
    )
    source = sources.open_source(twenty.model, 0)
    settings = [reference_pictures.settings_of(each, source) for each in (ten, twenty, beside)]
    assert settings[0] != settings[1] == settings[2]
    assert reference.drawing(beside).model.steps == 20 and beside.model.steps == 10
    with pytest.raises(ConfigError, match=r"quality.reference_steps` would be ignored"):
        load(*words, "quality.reference=null", "quality.reference_steps=20")
