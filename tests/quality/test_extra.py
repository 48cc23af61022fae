"""`quality.extra`: what it knows, what it refuses, and the numbers that its metrics give."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from sdxl.core.errors import ConfigError, UserError
from sdxl.model import prompts
from sdxl.model.clip_vocabulary import vocabulary_of
from sdxl.quality import beside, clip, extra, fast_scorer, per_prompt
from sdxl.quality.extra import cmmd
from sdxl.quality.extras import Extras
from sdxl.quality.pixels import unit
from sdxl.run import identity
from tests.conftest import ROOT
from tests.quality.conftest import MERGES

RANDOM = np.random.default_rng(0)
OURS, THEIRS = RANDOM.integers(0, 255, (2, 4, 128, 128, 3), np.uint8)
CPU = torch.device("cpu")
TINY = ("model=tiny", "quality=fast", "limit=4")
needs_torchvision = pytest.mark.skipif(
    not importlib.util.find_spec("torchvision"), reason="torchvision is not installed"
)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """A folder as PickScore's, HPS's and CMMD's: random weights, a small vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = vocabulary_of(MERGES)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: test", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines))
    tokens = len(vocabulary)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {**shape, "vocab_size": tokens, "eos_token_id": tokens - 1, "bos_token_id": tokens - 2}
    torch.manual_seed(0)
    sizes = CLIPConfig(text_config=text, projection_dim=16,
                       vision_config={**shape, "image_size": 32, "patch_size": 16})  # fmt: skip
    CLIPModel(sizes).save_pretrained(folder)
    return folder


def test_every_metric_says_what_it_is_and_loads_nothing():
    known = extra.metrics()
    assert {"lpips", "cmmd", "image_reward", "pickscore", "hps", "dists"} <= set(known)
    assert known["lpips"].kind == "paired" and not known["lpips"].higher_is_better
    assert known["cmmd"].kind == "set" and known["pickscore"].kind == "single"
    assert [name for name, each in known.items() if each.official] == ["image_reward"]
    code = (
        "import sys; from sdxl.quality import extra; extra.metrics();"
        "print(sorted({'torch', 'numpy', 'torchmetrics', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quality.extra=[lpis]",), "did you mean `lpips`"),
        (("quality.extra=[ms_ssim,ms_ssim]",), "each metric once"),
        (("quality.extra=[ms_ssim]", "quality.reference=null"), "there is none"),
        (("quality.extra=[ms_ssim]", "backend=fake"), "draws without a model"),
        (("quality.extra=[ms_ssim]", "quality.weights=[ms_ssim:x]"), "would be ignored"),
        (("quality.weights=[lpips:x]",), "would be ignored"),
        (("quality.reference_images=4", "quality.reference=null"), "would be ignored"),
        (("quality=full", "quality.reference=folder"), "no folder of pictures"),
    ],
)
def test_what_would_be_ignored_is_refused(load, words, said):
    with pytest.raises(ConfigError) as error:
        load(*[w for w in TINY if w.split("=")[0] not in {x.split("=")[0] for x in words}], *words)
    assert said in " ".join(" ".join(problem.lines()) for problem in error.value.problems)


def test_what_is_not_there_says_what_to_install_and_what_to_copy(load, monkeypatch):
    config = load(*TINY, "quality.extra=[lpips,pickscore]")
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: name != "torchvision")
    package, trunk, folder = extra.missing(config.quality)
    assert "torchvision" in package.got and "[metrics]" in package.fix
    assert "alexnet-owt-7be5be79.pth" in trunk.expected and "lpips:PATH" in trunk.fix
    assert "PickScore_v1" in folder.expected and "merges.txt" in folder.expected


def test_metrics_and_their_weights_are_part_of_the_key(load, tmp_path, small_clip):
    plain, asked = identity.identity(load(*TINY)), ("quality.extra=[pickscore]",)
    with_own = identity.identity(load(*TINY, *asked, f"quality.weights=[pickscore:{small_clip}]"))
    assert len({plain, identity.identity(load(*TINY, *asked)), with_own}) == 3


@pytest.fixture
def opened(load):
    def make(*names, weights=None):
        words = [f"quality.extra=[{','.join(names)}]"]
        if weights:
            words.append(f"quality.weights=[{','.join(f'{n}:{weights}' for n in names)}]")
        config = load(*TINY, *words)
        listed = prompts.load(config.dataset, config.limit, config.seed)
        return Extras(config.quality, config.model.device, listed), config

    return make


def test_ms_ssim_is_torchmetrics_own_and_one_for_equal_pictures(opened):
    extras, _ = opened("ms_ssim")
    assert extras.beside(OURS, OURS)["ms_ssim"] == pytest.approx([1.0] * 4)
    found = extras.beside(OURS, THEIRS)["ms_ssim"]
    alone = [
        float(ms_ssim(unit(a[None]), unit(b[None]), data_range=1.0, kernel_size=7))
        for a, b in zip(OURS, THEIRS, strict=True)
    ]
    assert found == pytest.approx(alone, abs=1e-6) and max(found) < 0.5


def test_preferences_are_cosines_of_caption_and_picture(opened, small_clip):
    extras, config = opened("pickscore", "hps", weights=small_clip)
    found = extras.single(range(4), OURS)
    network = clip.from_folder(small_clip, CPU)
    texts = [p.text for p in prompts.load(config.dataset, 4, 0)]
    cosines = (network.pictures(OURS) * network.captions(texts)).sum(axis=1)
    assert found["hps"] == pytest.approx(cosines.tolist(), abs=1e-6)
    scale = float(network.network.logit_scale.exp())
    assert found["pickscore"] == pytest.approx((scale * cosines).tolist(), abs=1e-4)
    assert extras.facts["hps"]["sha256"] and extras.facts["hps"]["published"] is None


def test_cmmd_is_the_kernel_distance_of_its_paper(opened, small_clip):
    extras, _ = opened("cmmd", weights=small_clip)
    for half in (slice(0, 2), slice(2, 4)):  # in pieces, as pictures come
        assert extras.beside(OURS[half], THEIRS[half]) == {}
    network = clip.from_folder(small_clip, CPU)
    ours, theirs = (torch.from_numpy(network.pictures(each)).double() for each in (OURS, THEIRS))

    def kernel(one, other):
        return torch.exp(-torch.cdist(one, other).square() / 200).mean()

    slow = 1000 * (kernel(ours, ours) + kernel(theirs, theirs) - 2 * kernel(ours, theirs))
    assert extras.sets()["cmmd"] == pytest.approx(float(slow), rel=1e-6)
    assert cmmd.distance(ours.numpy(), ours.numpy()) == pytest.approx(0, abs=1e-9)


def trunk(name, file):
    import torchvision

    torch.manual_seed(0)
    torch.save(getattr(torchvision.models, name)(weights=None).state_dict(), file)
    return file


@needs_torchvision
@pytest.mark.parametrize(("name", "network"), [("lpips", "alexnet"), ("dists", "vgg16")])
def test_a_distance_of_features_takes_its_trunk_from_a_file(opened, tmp_path, name, network):
    extras, _ = opened(name, weights=trunk(network, tmp_path / "trunk.pth"))
    equal, unlike = (extras.beside(OURS[:2], each[:2])[name] for each in (OURS, THEIRS))
    assert equal == pytest.approx([0, 0], abs=1e-5) and min(unlike) > 1e-4
    assert extras.facts[name]["published"] is False  # random numbers are not the published ones


@needs_torchvision
def test_a_file_that_holds_code_or_another_network_is_refused(opened, tmp_path):
    with pytest.raises(UserError, match="is not alexnet"):
        opened("lpips", weights=trunk("squeezenet1_1", tmp_path / "other.pth"))
    torch.save({"features.0.weight": print}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="cannot be read"):
        opened("lpips", weights=tmp_path / "code.pth")


def test_from_a_picture_to_the_record_and_its_file(load, tmp_path, small_clip):
    names = "quality.extra=[ms_ssim,hps,cmmd]"
    config = load(*TINY, names, f"quality.weights=[hps:{small_clip},cmmd:{small_clip}]")
    listed = prompts.load(config.dataset, 4, 0)
    found = beside.Beside(
        listed, dict(enumerate(THEIRS)), Extras(config.quality, config.model.device, listed)
    )
    found.take(fast_scorer.Quick(config, listed), range(4), OURS)
    parts = found.result(tmp_path)
    assert {"ms_ssim", "cmmd", "answers_changed"} == set(parts["reference"]["extra"])
    low, high = parts["reference"]["intervals"]["ms_ssim"]
    assert low <= parts["reference"]["extra"]["ms_ssim"] <= high
    assert parts["extra"]["hps"]["mean"] == pytest.approx(
        np.mean([*per_prompt.read(tmp_path / "prompts.json").figures["hps"].values.values()]),
        rel=1e-4,
    )
    pairs = {each["metric"]: each for each in parts["reference"]["paired"]}
    assert pairs["hps"]["prompts"] == 4 and "ms_ssim" not in pairs
