"""Weights from a folder: both layouts, every way in which a folder is incomplete, and the hub."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.components import COMPONENTS
from sdxl.model.replaced import Replaced
from sdxl.model.seeded import RandomSource
from sdxl.model.weights import WeightSource

CPU, META = torch.device("cpu"), torch.device("meta")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The tiny model as diffusers itself saves it."""
    from diffusers import StableDiffusionXLPipeline

    source = RandomSource(architecture.TINY, 0)
    first, second = source.tokenizers()
    pipeline = StableDiffusionXLPipeline(
        **{name: source.component(name, torch.float32, CPU) for name in COMPONENTS},
        tokenizer=first,
        tokenizer_2=second,
        scheduler=source.scheduler(),
    )
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved model to damage."""
    return shutil.copytree(saved, tmp_path / "model")


def open_at(path, **options):
    return WeightSource(schema.SdxlModel("sdxl", path=str(path), **options))


def refusal(path, name="unet", **options):
    with pytest.raises(UserError) as caught:
        open_at(path, **options).component(name, torch.float32, CPU)
    return str(caught.value)


def same(module, name):
    reference = RandomSource(architecture.TINY, 0).component(name, torch.float32, CPU)
    ours, theirs = module.state_dict(), reference.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_diffusers_folder_gives_back_its_weights(saved, name):
    module = open_at(saved).component(name, torch.float32, CPU)
    assert same(module, name) and not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_dtype_is_the_asked_one(saved):
    for name in COMPONENTS:
        module = open_at(saved).component(name, torch.bfloat16, CPU)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_tokenizers_and_scheduler_are_the_models_own(saved):
    source, reference = open_at(saved), RandomSource(architecture.TINY, 0)
    for ours, theirs in zip(source.tokenizers(), reference.tokenizers(), strict=True):
        options = {"padding": "max_length", "max_length": 77}
        text = "A red kettle, naïve."
        assert ours(text, **options)["input_ids"] == theirs(text, **options)["input_ids"]
    source.scheduler().set_timesteps(20)
    for name in ("beta_start", "beta_end", "timestep_spacing", "steps_offset", "prediction_type"):
        assert source.scheduler().config[name] == reference.scheduler().config[name]


@pytest.mark.parametrize("nested", [True, False])
def test_the_mlcommons_layout_is_read(saved, tmp_path, nested):
    root = tmp_path / "mlcommons"
    shutil.copytree(saved, root / "checkpoint_pipe")
    scheduler = root / "checkpoint_scheduler" / ("scheduler" if nested else "")
    shutil.copytree(root / "checkpoint_pipe/scheduler", scheduler)
    config = json.loads((scheduler / "scheduler_config.json").read_text())
    config["beta_end"] = 0.5
    (scheduler / "scheduler_config.json").write_text(json.dumps(config))
    source = open_at(root)
    assert same(source.component("unet", torch.float32, CPU), "unet")
    assert source.scheduler().config["beta_end"] == 0.5, "the scheduler that lies apart is used"


def test_shapes_alone_need_no_weights(folder):
    (folder / UNET).unlink()
    unet = open_at(folder).component("unet", torch.float16, META)
    reference = RandomSource(architecture.TINY, 0).component("unet", torch.float16, META)
    assert [p.shape for p in unet.parameters()] == [p.shape for p in reference.parameters()]


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_damaged_configuration_is_named_also_without_weights(folder, name):
    halve(folder / name / "config.json")
    with pytest.raises(UserError) as caught:
        open_at(folder).component(name, torch.float32, META)
    assert f"`{name}` cannot be loaded" in str(caught.value)
    assert str(folder / name) in str(caught.value) and "python -m sdxl download" in str(
        caught.value
    )


def test_damaged_tokenizers_and_schedulers_are_named(folder):
    source = open_at(folder)
    halve(folder / "scheduler/scheduler_config.json")
    with pytest.raises(UserError, match="the scheduler cannot be loaded"):
        source.scheduler()
    halve(folder / "tokenizer_2/tokenizer.json")
    with pytest.raises(UserError, match="the tokenizer_2 cannot be loaded") as caught:
        source.tokenizers()
    assert str(folder / "tokenizer_2") in str(caught.value)
    (folder / "tokenizer/tokenizer.json").unlink()  # transformers itself is content
    with pytest.raises(UserError, match="the tokenizer cannot be loaded: it has no vocabulary"):
        source.tokenizers()


def wider(path):
    config = json.loads((path / "config.json").read_text())
    config["cross_attention_dim"] *= 2
    (path / "config.json").write_text(json.dumps(config))


def without_one(path):
    weights = load_file(path / SAFETENSORS)
    del weights["conv_in.weight"]
    save_file(weights, path / SAFETENSORS, {"format": "pt"})


SAFETENSORS = "diffusion_pytorch_model.safetensors"
BAD_UNETS = [  # what is wrong, where it shows, what is said of it
    (lambda path: (path / SAFETENSORS).unlink(), CPU, "cannot be loaded"),
    (lambda path: halve(path / SAFETENSORS), CPU, "truncated or not safetensors"),
    (wider, CPU, "cannot be loaded"),
    (without_one, CPU, "lacks 1 weights of `model.unet`"),
    (lambda path: halve(path / "config.json"), CPU, "cannot be loaded"),
    (lambda path: halve(path / "config.json"), META, "cannot be loaded"),
    (lambda path: (path / "config.json").unlink(), META, "`model.unet` holds no UNet"),
]


@pytest.mark.parametrize("number", range(len(BAD_UNETS)))
def test_another_unet_that_is_none_is_named_with_its_setting(folder, number):
    spoil, device, said = BAD_UNETS[number]
    spoil(folder / "unet")
    with pytest.raises(UserError) as caught:
        Replaced(RandomSource(architecture.TINY, 0), "unet", str(folder / "unet")).component(
            "unet", torch.float32, device
        )
    assert said in str(caught.value) and str(folder / "unet") in str(caught.value)
    assert "model.unet=FOLDER" in str(caught.value)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_missing_component_is_named(folder, name):
    shutil.rmtree(folder / name)
    said = refusal(folder, name)
    assert f"no `{name}`" in said and "python -m sdxl download sdxl" in said


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_named_with_its_sizes(folder, size):
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[:size])
    said = refusal(folder)
    assert "truncated or not safetensors" in said and UNET in said
    if size == -1:
        assert f"{len(whole):,} bytes" in said


@pytest.mark.parametrize("garbage", [b"PK\3\4" * 100, b"<html>not found</html>" * 20])
def test_a_file_of_another_kind_is_named(folder, garbage):
    (folder / UNET).write_bytes(garbage)
    assert "truncated or not safetensors" in refusal(folder)


@pytest.mark.parametrize(
    "header",
    [b"[1,2]", b'{"a":{"dtype":"F32","shape":[4]}}', b"{", b"null", b'{"a":[]}', b"\xff\xfe"],
)
def test_a_damaged_header_is_named(folder, header):
    (folder / UNET).write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    assert "truncated or not safetensors" in refusal(folder)


@pytest.mark.parametrize("length", [1 << 40, (1 << 63) + 5, (1 << 64) - 1])
def test_a_header_longer_than_any_file_is_named(folder, length):
    (folder / UNET).write_bytes(length.to_bytes(8, "little") + bytes(100))
    assert "truncated or not safetensors" in refusal(folder)


def test_a_file_with_more_than_it_says_is_named_with_its_sizes(folder):
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole + b"more")
    said = refusal(folder)
    assert "truncated or not safetensors" in said and f"{len(whole):,} bytes" in said


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_missing_weight_is_named_and_never_made_up(folder, name):
    (file,) = (folder / name).glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(key for key in weights if key.endswith("weight"))[3]
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    said = refusal(folder, name)
    assert "lacks 1 weights" in said and lost.split(".", 1)[1] in said


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_a_weight_of_another_shape_is_refused(folder, name):
    (file,) = (folder / name).glob("*.safetensors")
    weights = load_file(file)
    key = sorted(key for key in weights if key.endswith("weight"))[3]
    weights[key] = torch.zeros(3, 3)
    save_file(weights, file, {"format": "pt"})
    assert f"`{name}`" in refusal(folder, name)


def test_pickled_weights_are_never_read(folder):
    weights = load_file(folder / UNET)
    torch.save(weights, folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET).unlink()
    assert "*.safetensors" in refusal(folder)


def test_a_variant_is_taken_and_a_missing_one_is_named(folder):
    shutil.move(folder / UNET, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert same(open_at(folder, variant="fp16").component("unet", torch.float32, CPU), "unet")
    assert "model.variant=fp16" in refusal(folder)


def test_a_pruned_unet_in_a_folder_is_loaded_with_its_own_shape(folder):
    narrow = {**architecture.TINY, "unet": {**architecture.TINY["unet"], "layers_per_block": 2}}
    unet = RandomSource(narrow, 5).component("unet", torch.float32, CPU)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")
    loaded = open_at(folder).component("unet", torch.float32, CPU)
    assert loaded.config.layers_per_block == 2
    theirs = unet.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in loaded.state_dict().items())


def test_identity_changes_with_the_weights(folder):
    before = open_at(folder).identity()
    assert open_at(folder).identity() == before and UNET in before
    weights = load_file(folder / UNET)
    weights["one.more"] = torch.zeros(1)
    save_file(weights, folder / UNET, {"format": "pt"})
    assert open_at(folder).identity() != before


@pytest.mark.parametrize("path", ["/nowhere/sdxl", "./nowhere", "~/nowhere", "store:nowhere", "x"])
def test_a_folder_that_is_not_there_is_named_with_the_way_to_get_it(path):
    said = refusal(path)
    assert "not there" in said and path in said and "python -m sdxl download sdxl" in said


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "model_index.json" in refusal(tmp_path)


def test_another_model_is_never_replaced_by_the_one_in_the_store(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "store/sdxl")
    assert same(
        open_at("stabilityai/stable-diffusion-xl-base-1.0").component("unet", torch.float32, CPU),
        "unet",
    )
    assert "not there" in refusal("/data/my-finetuned-sdxl")


def test_a_saved_model_runs_from_the_command_line(cli, saved):
    done = cli("model=sdxl", f"model.path={saved}", "model.height=64", "model.width=64",
               "rules=open", "model.steps=2", "limit=3", "scenario.min_duration_ms=0")  # fmt: skip
    assert done.code == 0, done.err
    assert done.record["performance"]["generator"]["parameters"]["unet"] > 100_000
