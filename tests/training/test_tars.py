"""Tar files that people have: every sample is found, or the tar is refused with what is wrong."""

import io
import tarfile

import pytest

from sdxl.core.errors import UserError
from sdxl.training.data import tars

PAIR = ("latents.npy", "txt")
LONG = "a/very/deep/folder/" * 12


def write(path, members, form=tarfile.GNU_FORMAT):
    """A tar of (name, content); returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pairs(*names):
    return [(f"{name}.{part}", b"12345") for name in names for part in PAIR]


def told(file):
    with pytest.raises(UserError) as caught:
        tars.index(0, file)
    assert file.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("s-{000000..000002}.tar", ["s-000000.tar", "s-000001.tar", "s-000002.tar"]),
        ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("s-{2..1}.tar", ["s-2.tar", "s-1.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_expanded_in_their_order(tmp_path, word, names):
    for name in names:
        write(tmp_path / name, pairs("0"))
    assert tars.files_of(f"{tmp_path}/{word}") == [tmp_path / name for name in names]


def test_folders_globs_and_braces_of_them(tmp_path):
    files = [write(tmp_path / part / "0.tar", pairs("0")) for part in ("a", "b")]
    assert tars.files_of(str(tmp_path / "a")) == files[:1]
    assert tars.files_of(f"{tmp_path}/{{a,b}}/*.tar") == files


@pytest.mark.parametrize("word", ["s-{0..2}.tar", "nothing.tar", "*.tar.gz", "s-{0,1,2}.tar"])
def test_a_shard_that_is_not_there_is_named(tmp_path, word):
    for number in range(2):
        write(tmp_path / f"s-{number}.tar", pairs("0"))
    with pytest.raises(UserError, match="there are no shards") as caught:
        tars.files_of(f"{tmp_path}/{word}")
    assert word.replace("{0..2}", "2").replace("{0,1,2}", "2") in str(caught.value)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "nested/", LONG, "café/"])
def test_names_of_any_length_and_depth(tmp_path, form, prefix):
    names = [f"{prefix}{n:03d}" for n in range(3)]
    file = write(tmp_path / "0.tar", pairs(*names), form)
    found = tars.index(7, file)
    assert [sample.name for sample in found] == names
    for sample in found:
        for offset, length in sample.parts.values():
            assert file.read_bytes()[offset : offset + length] == b"12345"


def test_folders_and_a_macs_notes_are_no_samples(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:") as tar:
        folder = tarfile.TarInfo("nested")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in [*pairs("nested/0"), ("nested/._0.txt", b"\0")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (sample,) = tars.index(0, tmp_path / "0.tar")
    assert sample.name == "nested/0" and sample.parts.keys() == set(PAIR)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("0.txt", b"a")], "sample `0` has no latents.npy"),
        ([*pairs("0"), ("1.latents.npy", b""), ("1.txt", b"a")], "sample `1` is empty"),
        ([*pairs("0"), *pairs("0")], "0.latents.npy is there twice"),
        ([("img_v1.0.latents.npy", b"1"), ("img_v1.0.txt", b"1")], "sample `img_v1` has no"),
        ([(".txt", b"a")], "sample `` has no"),
    ],
)
def test_a_bad_sample_is_named(tmp_path, members, said):
    assert said in told(write(tmp_path / "0.tar", members))


def test_a_link_is_named(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:") as tar:
        link = tarfile.TarInfo("0.latents.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere.npy"
        tar.addfile(link)
    assert "0.latents.npy is no plain file" in told(tmp_path / "0.tar")


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    """Between members, too, where tarfile itself takes it for the end."""
    whole = write(tmp_path / "0.tar", pairs("0", "1", "2"))
    content, cut = whole.read_bytes(), tmp_path / "cut.tar"
    for length in range(0, 12 * 512, 256):
        cut.write_bytes(content[:length])
        told(cut)


def test_a_damaged_header_ends_nothing_silently(tmp_path):
    file = write(tmp_path / "0.tar", pairs("0", "1", "2"))
    content = bytearray(file.read_bytes())
    content[4 * 512 + 150] ^= 0xFF  # in the checksum of the third member
    file.write_bytes(content)
    assert "damaged header" in told(file)


def test_two_tars_in_one_file_are_refused(tmp_path):
    one, two = (write(tmp_path / f"{n}.tar", pairs(str(n))) for n in range(2))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    assert "another tar" in told(one)


@pytest.mark.parametrize("content", [b"", b"no tar" * 500, b"\x1f\x8b\x08" + bytes(600)])
def test_what_is_no_tar(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    told(tmp_path / "0.tar")
