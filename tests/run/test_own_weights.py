"""Single files and AutoencoderTiny on every way to a picture: PyTorch, INT8, ONNX Runtime."""

import numpy as np
import pytest
import torch

from sdxl.config.load import load as check
from sdxl.config.plugins import backend_of
from sdxl.core.paths import BUNDLED
from sdxl.model import prompts, single_file
from sdxl.model.components import unscale
from sdxl.model.images import to_uint8
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from sdxl.model.weights import WeightSource
from sdxl.quality.baseline import compare
from tests.export.conftest import chain_of
from tests.model.conftest import settings
from tests.vnni import EXACT

__all__ = ["chain_of"]
SMALL = ("model=sdxl", "model.height=64", "model.width=64", "model.steps=2", "rules=open",
         "model.noise=per_prompt", "quality=none", "limit=2")  # fmt: skip
INT8 = ("quant=int8", "quant_level=3", "calib_size=1", "quant.report_prompts=0")
PIXEL = 2
"""Codes that sums in another order may move a pixel by."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The bundled model as a single file in the original layout."""
    file = tmp_path_factory.mktemp("single") / "miniature.safetensors"
    single_file.write(WeightSource(settings(BUNDLED)), file, torch.float32)
    return file


@pytest.fixture
def tiny_vae(tmp_path):
    """A folder with an AutoencoderTiny of random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = (16, 16, 16, 16)
    vae = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    vae.decoder.layers[-1].bias.data.fill_(0.5)  # else pictures end in black
    vae.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


@pytest.fixture
def draw(composed, chain_of):
    """A model's path, words -> pictures of two prompts and what was decoded into them."""

    def pictures(path, *words):
        config = check(composed(*SMALL, f"model.path={path}", *words))
        chosen = prompts.load(config.dataset, config.limit, config.seed)
        stages = backend_of(config).open(config, chain_of(config).loads)
        sampler = Sampler(stages, open_source(config.model, config.seed), config, chosen)
        decoded, decode = [], stages.decode
        stages.decode = lambda latents: decoded.append(latents) or decode(latents)
        images = sampler.generate([0, 1])
        sampler.close()
        return images, torch.as_tensor(decoded[0])

    return pictures


@pytest.mark.parametrize("words", [(), INT8], ids=["fp32", "simulated"])
def test_a_single_file_draws_the_pixels_of_its_folder(draw, checkpoint, words):
    ours, _ = draw(checkpoint, *words)
    theirs, _ = draw(BUNDLED, *words)
    assert np.array_equal(ours, theirs) and ours.std() > 8


def test_a_single_file_computes_in_8_bits(draw, checkpoint):
    """Kernels are chosen by the clock and add in their own order: nearer than INT8 is to fp32."""
    real, _ = draw(checkpoint, *INT8, "backend.execution=real")
    simulated, _ = draw(BUNDLED, *INT8)
    noise = compare(simulated, draw(BUNDLED)[0])["psnr_db"]
    near = compare(real, simulated)["psnr_db"]
    assert near > noise if EXACT else near is None, "without exact kernels all is simulated"


def test_an_autoencoder_tiny_draws_what_diffusers_decodes(draw, tiny_vae):
    from diffusers import AutoencoderTiny

    images, latents = draw(BUNDLED, f"model.vae={tiny_vae}")
    vae = AutoencoderTiny.from_pretrained(tiny_vae).eval()
    with torch.inference_mode():
        expected = vae.decode(unscale(latents, vae.config)).sample.permute(0, 2, 3, 1).numpy()
    # Kernels add in an order of the latents' memory format, which not every processor sees.
    assert np.abs(images.astype(int) - to_uint8(expected)).max() <= 1 and images.std() > 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_run_through_onnx_runtime_in_8_bits_too(draw, checkpoint, tiny_vae):
    """In INT8 ONNX Runtime is nearer to the simulation than that is to fp32."""
    words = (f"model.vae={tiny_vae}",)
    plain, _ = draw(checkpoint, *words)
    ours, _ = draw(checkpoint, *words, "backend=ort")
    assert np.abs(ours.astype(int) - plain).max() <= PIXEL
    simulated, _ = draw(checkpoint, *words, *INT8)
    real, _ = draw(checkpoint, *words, *INT8, "backend=ort")
    noise = compare(simulated, plain)["psnr_db"]
    assert compare(real, simulated)["psnr_db"] > noise
