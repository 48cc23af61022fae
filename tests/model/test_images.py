"""Pictures: bytes from floats, what is refused, what is kept and under which name."""

import hashlib
import time

import numpy as np
import pytest
from PIL import Image

from sdxl.bench.keep import Keeper
from sdxl.core.errors import SdxlError, StageError
from sdxl.core.types import Prompt, Sample
from sdxl.model import images


def picture(seed, size=32):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def read(path):
    with Image.open(path) as file:
        return np.asarray(file)


def test_floats_become_bytes_as_in_diffusers():
    import torch
    from diffusers.image_processor import VaeImageProcessor

    values = torch.linspace(-1.5, 1.5, 3 * 16 * 16).reshape(1, 3, 16, 16)
    theirs = VaeImageProcessor().postprocess(values, output_type="pil")
    ours = images.to_uint8(values.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(ours[0], np.asarray(theirs[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_refused(bad):
    values = np.zeros((2, 8, 8, 3), np.float32)
    values[1, 3, 3, 0] = bad
    with pytest.raises(StageError, match="NaN or Inf"):
        images.to_uint8(values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_bytes_made_where_the_picture_is_are_those_made_in_numpy(dtype, channels_last):
    import torch

    torch.manual_seed(0)
    ties = (torch.arange(0, 511, dtype=torch.float64) / 2 / 255 - 0.5) * 2  # half a level apart
    values = torch.cat([ties.float(), torch.randn(3 * 5 * 64 * 64 - len(ties)) * 0.7])
    image = values.reshape(5, 3, 64, 64).to(getattr(torch, dtype))
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
    expected = images.to_uint8(image.permute(0, 2, 3, 1).float().numpy())
    found = images.to_host([images.on_device(part) for part in image.split(2)])
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_refused_after_the_device_made_bytes(bad):
    import torch

    image = torch.zeros(3, 3, 8, 8)
    parts = [images.on_device(part) for part in image.split(2)]
    assert images.to_host(parts).shape == (3, 8, 8, 3)
    image[2, 0, 3, 3] = bad
    with pytest.raises(StageError, match="NaN or Inf"):
        images.to_host([images.on_device(part) for part in image.split(2)])


@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_is_refused(level):
    with pytest.raises(StageError, match="prompt 7 is constant"):
        images.check(np.full((8, 8, 3), level, np.uint8), 7)


def test_png_files_hold_the_pixels_and_the_hash_is_theirs(tmp_path):
    digest = images.save(picture(1), tmp_path / "deep/x.png")
    assert np.array_equal(read(tmp_path / "deep/x.png"), picture(1))
    assert digest == hashlib.sha256(picture(1).tobytes()).hexdigest()
    assert digest != images.pixel_hash(picture(2))


@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_a_sheet_shows_every_picture_with_any_caption(tmp_path, count):
    captions = ["plain", "naïve café 日本語 🐈", "", "word " * 60] * 2
    paths = []
    for number in range(count):
        paths.append(tmp_path / f"{number}.png")
        images.save(picture(number), paths[-1])
    images.sheet(paths, captions[:count], tmp_path / "sheet.png")
    page = read(tmp_path / "sheet.png")
    columns, rows = min(4, count), -(-count // 4)
    assert page.shape == (rows * 234 + 8, columns * 200 + 8, 3)
    last = page[8 + (rows - 1) * 234 :, 8 + (count - 1) % 4 * 200 :][:192, :192]
    assert last.std() > 10, "the last cell is not white paper"


class Generator:
    """Draws picture i for prompt i and writes down who was asked for."""

    def __init__(self):
        self.asked = []

    def generate(self, indices):
        self.asked += indices
        return np.stack([picture(index) for index in indices])


def keeper(tmp_path, prompts=10, keep=4, accuracy=False):
    chosen = [
        Prompt(index, f"caption {index}", 100 + index, str(index)) for index in range(prompts)
    ]
    return Keeper(tmp_path / "images", chosen, keep, accuracy)


def take(kept, *indices):
    kept.take([Sample(1000 + i, i) for i in indices], np.stack([picture(i) for i in indices]))


@pytest.mark.parametrize("accuracy", [False, True])
def test_kept_pictures_are_named_by_their_query_sample(tmp_path, accuracy):
    kept = keeper(tmp_path, prompts=10, keep=4, accuracy=accuracy)
    take(kept, 9, 3, 0)
    take(kept, 1, 3, 5)
    generator = Generator()
    entries = kept.finish(generator)
    wanted = range(10) if accuracy else range(4)
    assert [entry["index"] for entry in entries] == list(wanted)
    for entry in entries:
        index = entry["index"]
        assert entry["file"] == f"images/{index:06d}.png"
        assert np.array_equal(read(tmp_path / entry["file"]), picture(index))
        assert entry["sha256"] == images.pixel_hash(picture(index))
        assert entry["caption"] == f"caption {index}" and entry["row"] == 100 + index
        assert entry["measured"] is (index in {9, 3, 0, 1, 5})
    assert set(generator.asked) == set(wanted) - {9, 3, 0, 1, 5}
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"{index:06d}.png" for index in wanted]


def test_pictures_may_be_overwritten_by_their_maker_afterwards(tmp_path):
    """Backends with CUDA graphs hand out the same buffer every time."""
    kept, buffer = keeper(tmp_path, keep=3), np.empty((1, 32, 32, 3), np.uint8)
    for index in range(3):
        buffer[0] = picture(index)
        kept.take([Sample(index, index)], buffer)
    buffer[:] = 0
    kept.finish(Generator())
    assert np.array_equal(read(tmp_path / "images/000000.png"), picture(0))


@pytest.mark.parametrize("accuracy", [False, True])
def test_a_constant_picture_is_refused_wherever_it_comes(tmp_path, accuracy):
    kept = keeper(tmp_path, accuracy=accuracy)
    batch = np.stack([picture(0), np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(StageError, match="prompt 9"):
        kept.take([Sample(0, 0), Sample(1, 9)], batch)
    kept.finish(Generator())


def test_a_picture_that_is_constant_only_on_the_coarse_grid_passes(tmp_path):
    one = np.zeros((1, 32, 32, 3), np.uint8)
    one[0, 5, 5] = 255
    kept = keeper(tmp_path)
    kept.take([Sample(0, 0)], one)
    kept.finish(Generator())


def test_more_pictures_than_wait_at_most_do_not_block(tmp_path):
    kept = keeper(tmp_path, prompts=200, accuracy=True)
    for start in range(0, 200, 50):
        take(kept, *range(start, start + 50))
    assert len(kept.finish(Generator())) == 200


def test_a_full_disk_ends_an_accuracy_run_at_its_next_picture(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "save", full)
    kept = keeper(tmp_path, prompts=2000, accuracy=True)
    with pytest.raises(SdxlError, match="no space left on the disk") as caught:
        for index in range(2000):
            take(kept, index)
            time.sleep(0.005)
    assert str(tmp_path / "images") in str(caught.value)
    assert index < 1000, "not at the end, after all pictures were drawn"


def test_a_sheet_of_baselines_shows_both_and_what_differs_enlarged(tmp_path):
    one = np.full((64, 64, 3), 100, np.uint8)
    other = one.copy()
    other[16:48, 16:48] = 104
    for name, image in (("one", one), ("other", other)):
        images.save(image, tmp_path / f"{name}.png")
    pair = (tmp_path / "one.png", tmp_path / "other.png")
    images.baseline_sheet([pair, pair], ["a", "b"], tmp_path / "baseline.png")
    page = read(tmp_path / "baseline.png")
    assert page.shape == (2 * 220 + 8, 3 * 200 + 8, 3)
    middle, corner = (104, 104), (16, 16)
    for top in (0, 220):
        row = [page[top : top + 220, left : left + 200] for left in (0, 200, 400)]
        assert [int(cell[middle][0]) for cell in row] == [100, 104, 128 + 4 * images.AMPLIFIED]
        assert [int(cell[corner][0]) for cell in row] == [100, 100, 128]
