"""Pictures in every form that people have: one reader scales, turns and flattens, or refuses."""

import numpy as np
import pytest
from PIL import Image

from sdxl.core.errors import UserError
from sdxl.model import images, pictures
from sdxl.quality import efficientnet, statistics

RNG = np.random.default_rng(0)
SCENE = np.kron(RNG.integers(30, 220, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
GRAY = SCENE[..., 0]


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def told(path):
    with pytest.raises(UserError) as caught:
        pictures.load(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def as_rgb(gray):
    return np.repeat(gray[..., None], 3, axis=2)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.ppm", "x.tif", "x.webp"])
def test_eight_bits_are_kept(tmp_path, name):
    path = saved(
        tmp_path, Image.fromarray(SCENE), name, **({"lossless": True} if "webp" in name else {})
    )
    assert np.array_equal(pictures.load(path), SCENE)
    assert pictures.load(path).flags.writeable


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(GRAY.astype(np.uint16) * 257), name)
    assert np.array_equal(pictures.load(path), as_rgb(GRAY))


def test_a_sixteen_bit_portable_pixmap(tmp_path):
    path = tmp_path / "x.ppm"
    wide = (GRAY.astype(np.uint16) * 257).astype(">u2")
    path.write_bytes(b"P5 64 48 65535\n" + wide.tobytes())
    assert np.array_equal(pictures.load(path), as_rgb(GRAY))


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(GRAY.astype(np.float32) / 255), "x.tif")
    assert np.array_equal(pictures.load(path), as_rgb(GRAY))
    for values in (GRAY.astype(np.float32), np.full((4, 4), np.nan, np.float32)):
        assert "floating point" in told(saved(tmp_path, Image.fromarray(values), "y.tif"))


def test_integers_of_unknown_range_are_refused(tmp_path):
    assert "32-bit integers" in told(
        saved(tmp_path, Image.fromarray(GRAY.astype(np.int32)), "x.tif")
    )


def test_transparent_parts_lie_on_white_and_opaque_ones_stay(tmp_path):
    alpha = np.full(GRAY.shape, 255, np.uint8)
    opaque = saved(tmp_path, Image.fromarray(np.dstack([SCENE, alpha])))
    assert np.array_equal(pictures.load(opaque), SCENE)
    alpha[:24] = 0
    found = pictures.load(saved(tmp_path, Image.fromarray(np.dstack([SCENE, alpha]))))
    assert (found[:24] == 255).all() and np.array_equal(found[24:], SCENE[24:])
    gray = pictures.load(saved(tmp_path, Image.fromarray(np.dstack([GRAY, alpha]))))
    assert (gray[:24] == 255).all() and np.array_equal(gray[24:], as_rgb(GRAY)[24:])


def test_palettes_with_and_without_transparency(tmp_path):
    palette = Image.fromarray(SCENE).quantize(64)
    shown = np.asarray(palette.convert("RGB"))
    assert np.array_equal(pictures.load(saved(tmp_path, palette)), shown)
    clear = saved(tmp_path, palette, transparency=palette.getpixel((0, 0)))
    assert (pictures.load(clear)[0, 0] == 255).all()


def test_cmyk_and_one_bit(tmp_path):
    path = saved(tmp_path, Image.fromarray(SCENE).convert("CMYK"), "x.tif")
    assert np.abs(pictures.load(path).astype(int) - SCENE).max() <= 2
    bits = Image.fromarray(GRAY > 100)
    assert set(np.unique(pictures.load(saved(tmp_path, bits)))) == {0, 255}


@pytest.mark.parametrize(("orientation", "turned"), [
    (3, SCENE[::-1, ::-1]), (6, np.rot90(SCENE, 3)), (8, np.rot90(SCENE)), (2, SCENE[:, ::-1]),
])  # fmt: skip
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pictures.load(saved(tmp_path, Image.fromarray(SCENE), exif=exif)), turned)


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif"])
def test_several_frames_are_no_picture(tmp_path, name):
    frames = [Image.fromarray(np.roll(SCENE, n)) for n in range(3)]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    assert "3 frames" in told(path)


def test_an_oversized_picture_is_named_before_it_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)))
    assert "exceeds" in told(path) or "20000 x 20000" in told(path)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 3000)
    assert "64 x 48 pixels, more than 3,000" in told(saved(tmp_path, Image.fromarray(SCENE)))


def test_broken_pictures_are_named(tmp_path):
    whole = saved(tmp_path, Image.fromarray(SCENE)).read_bytes()
    at = whole.index(b"IDAT") + 20
    broken = {"zeros": whole[:at] + bytes(30) + whole[at + 30 :], "cut": whole[: len(whole) // 2],
              "empty": b"", "text": b"<html>not found</html>"}  # fmt: skip
    for name, content in broken.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        told(tmp_path / f"{name}.png")
    jpeg = saved(tmp_path, Image.fromarray(SCENE), "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    told(tmp_path / "cut.jpg")


def test_what_a_folder_holds(tmp_path):
    """Names with a dot in front are a Mac's notes of its files, not pictures."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("b.PNG", "a.jpeg", "notes.txt", "._a.jpeg", ".hidden.png"):
        (inner / name).write_bytes(b"")
    assert pictures.find(tmp_path) == [inner / "a.jpeg", inner / "b.PNG"]


@pytest.mark.parametrize("read", [
    lambda folder: list(statistics._decoded(pictures.find(folder))),
    lambda folder: list(efficientnet.folder(folder)),
], ids=["statistics", "reference"])  # fmt: skip
def test_every_reader_of_a_folder_reads_alike(tmp_path, read):
    saved(tmp_path, Image.fromarray(GRAY.astype(np.uint16) * 257), "a.png")
    saved(tmp_path, Image.fromarray(SCENE), "b.png")
    assert np.array_equal(np.squeeze(read(tmp_path)[0]), as_rgb(GRAY))
    (tmp_path / "c.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"c\.png cannot be read"):
        read(tmp_path)


def test_a_contact_sheet_keeps_the_aspect(tmp_path):
    wide = saved(tmp_path, Image.new("RGB", (96, 32), "red"), "wide.png")
    images.sheet([wide], ["a caption"], tmp_path / "sheet.png", cell=96)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 60)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (len(rows), len(columns)) == (32, 96)
