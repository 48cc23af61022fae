"""A configuration that is corrected in place makes another model; usual ones change no key."""

import json

from sdxl.config import schema
from sdxl.model import architecture, config_identity
from sdxl.model.weights import WeightSource
from tests.model import folders


def source(path):
    return WeightSource(schema.SdxlModel("sdxl", path=str(path)))


def test_a_corrected_config_is_another_model(tmp_path):
    """Graphs and statistics of the wrong scale went on being found."""
    made = folders.folder(tmp_path / "model")
    before = source(made).identity()
    assert not any(name.endswith("config.json") for name in before)  # keys of ours stay
    for name, changed in (("vae", {"scaling_factor": 0.18215}), ("unet", {"norm_eps": 1e-6}),
                          ("text_encoder", {"hidden_act": "gelu"})):  # fmt: skip
        file = made / name / "config.json"
        said = json.loads(file.read_text())
        file.unlink()
        file.write_text(json.dumps({**said, "_diffusers_version": "9", "dtype": "float16"}))
        assert source(made).identity() == before
        file.write_text(json.dumps({**said, **changed}))
        after = source(made).identity()
        assert {*after} - {*before} == {f"{name}/config.json"}
        file.write_text(json.dumps(said))


def test_keys_of_the_published_model_stay():
    """As its files are: with settings that `architecture` leaves to the libraries."""
    more = {"unet": {"attention_type": "default", "norm_num_groups": 32, "class_embed_type": None},
            "vae": {"force_upcast": True, "norm_num_groups": 32, "_class_name": "AutoencoderKL"},
            "text_encoder": {"eos_token_id": 2, "torch_dtype": "float16"},
            "text_encoder_2": {"layer_norm_eps": 1e-05}}  # fmt: skip
    said = {name: {**config, **more[name]} for name, config in architecture.SDXL.items()}
    assert config_identity.identity(said) == {}
    del said["vae"]["scaling_factor"]
    assert [*config_identity.identity(said)] == ["vae/config.json"]
