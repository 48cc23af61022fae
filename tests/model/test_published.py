"""The benchmark's weights are known by checksums; the table is data, the files here stand-ins."""

import hashlib
import shutil

import pytest
from omegaconf import OmegaConf

from sdxl.config import schema
from sdxl.model import published
from sdxl.model.components import COMPONENTS
from sdxl.model.download.catalogue import CATALOGUE

STEMS = {n: "model" if n.startswith("text") else "diffusion_pytorch_model" for n in COMPONENTS}


def content(name, variant):
    return f"{name} in {variant}".encode() * 100


@pytest.fixture
def catalogue(tmp_path):
    """A table with the checksums of small stand-ins: SHA-256 in fp32 and fp16, MD5 of others."""
    files, others = [], {}
    for name in COMPONENTS:
        for variant, end in (("fp32", ""), ("fp16", ".fp16")):
            data = content(name, variant)
            files.append({
                "path": f"sdxl/{name}/{STEMS[name]}{end}.safetensors", "variant": variant,
                "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
            })  # fmt: skip
        digest = hashlib.md5(content(name, "mlcommons"), usedforsecurity=False).hexdigest()
        others[name] = [{"md5": digest, "what": "MLCommons'"}]
    others["whole"] = [{"sha256": hashlib.sha256(b"whole").hexdigest(), "what": "one file"}]
    about = {
        "what": "",
        "licence": "",
        "use": "",
        "offline": "",
        "base": "http://x",
        "files": files,
    }
    OmegaConf.save({"targets": {"sdxl": about}, "benchmark": others}, tmp_path / "table.yaml")
    return tmp_path / "table.yaml"


@pytest.fixture
def folder(tmp_path):
    """(variant of the contents, ending of the names, layout) -> a folder of stand-ins."""

    def make(stored, end="", mlcommons=False):
        top = tmp_path / "weights"
        root = top / "checkpoint_pipe" if mlcommons else top
        for name in COMPONENTS:
            (root / name).mkdir(parents=True)
            file = root / name / f"{STEMS[name]}{end}.safetensors"
            file.write_bytes(content(name, stored))
        (root / "model_index.json").write_text("{}")
        return top

    return make


def doubt(catalogue, path, variant=None):
    return published.doubt(schema.SdxlModel("sdxl", path=str(path), variant=variant), catalogue)


@pytest.mark.parametrize("mlcommons", [True, False])
@pytest.mark.parametrize("stored", ["fp32", "fp16", "mlcommons"])
def test_both_layouts_in_both_precisions_are_known(catalogue, folder, stored, mlcommons):
    assert doubt(catalogue, folder(stored, mlcommons=mlcommons)) is None


def test_a_variants_files_are_looked_at(catalogue, folder):
    top = folder("fp16", ".fp16")
    (top / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"another")
    assert doubt(catalogue, top, "fp16") is None
    assert "no weights of text_encoder" in doubt(catalogue, top)


@pytest.mark.parametrize("name", COMPONENTS)
def test_one_other_file_is_named(catalogue, folder, name):
    top = folder("fp32")
    file = top / name / f"{STEMS[name]}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")  # of the same length
    said = doubt(catalogue, top)
    assert f"{file.name} of {name} is no published file" in said
    shutil.rmtree(top / name)
    assert doubt(catalogue, top)


def test_a_single_file_is_known(catalogue, tmp_path):
    file = tmp_path / "sd_xl_base.safetensors"
    file.write_bytes(b"whole")
    assert doubt(catalogue, file) is None
    file.write_bytes(b"a finetune")
    assert "is no published file" in doubt(catalogue, file)


def test_the_tables_own_entries_are_whole():
    table = published.published(CATALOGUE)
    assert set(table) == {*COMPONENTS, published.WHOLE}
    assert all(len(table[name]) == 3 for name in COMPONENTS), "fp32, fp16, MLCommons' fp16"
    for entries in table.values():
        for entry in entries:
            assert len(entry.get("sha256") or "") == 64 or len(entry.get("md5") or "") == 32
