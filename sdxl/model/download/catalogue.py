"""What `conf/download.yaml` lists: files, where they are published, how the right one is known."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sdxl.core import store
from sdxl.core.errors import UserError, one_line
from sdxl.core.paths import CONF
from sdxl.model import caption_files, latents

CATALOGUE = CONF / "download.yaml"
COLUMNS = ("id", "image_id", "caption", "height", "width", "file_name")
ANNOTATIONS = "annotations/captions_train2014.json"
_HUB = re.compile(r"([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)")
"""The address of a file on the hub: repository, revision, path."""


@dataclass
class File:
    """One file of the store; `make` names how it is made where it is not published as such."""

    path: str
    urls: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    variant: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    sha1: str | None = None
    git_blob_sha1: str | None = None
    ids_sha256: str | None = None
    values_sha256: str | None = None
    make: str | None = None
    inputs: list[File] = field(default_factory=list)

    @property
    def target(self) -> Path:
        """Where it belongs."""
        return store.root() / self.path

    @property
    def inner(self) -> str:
        """Its path inside its own folder of the store, which is how it is published."""
        return self.path.partition("/")[2]

    @property
    def name(self) -> str:
        """Its file name."""
        return Path(self.path).name

    def problem(self, path: Path) -> str | None:
        """What is wrong with a copy of it, or None; a wrong size spares reading the rest."""
        size = path.stat().st_size
        if self.bytes and size != self.bytes:
            return f"{size:,} bytes in place of {self.bytes:,}"
        for kind, digest in DIGESTS.items():
            expected = getattr(self, kind)
            if not expected:
                continue
            try:
                found = digest(path)
            except UserError as error:
                return one_line(error.problems)
            if found != expected:
                return f"{kind} {found} in place of {expected}"
        return None

    def cached(self) -> Path | None:
        """Its copy in the hub's own cache on this machine, as other programs leave one there."""
        published = _HUB.search(self.urls[0]) if self.urls else None
        if not published:
            return None
        from huggingface_hub import try_to_load_from_cache

        repository, revision, name = published.groups()
        found = try_to_load_from_cache(repository, name, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def within(self, folder: Path) -> Path | None:
        """The file in a user's folder, under one of its names."""
        names = [self.inner, self.path, self.name, *self.aliases]
        return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass
class Target:
    """One word of the command line: its files, and what to say about them."""

    what: str
    licence: str
    use: str
    offline: str
    files: list[File]
    own: str | None = None


def load(path: Path = CATALOGUE) -> dict[str, Target]:
    """Everything that can be downloaded, by its word on the command line."""
    raw: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    found = {}
    for name, entry in raw["targets"].items():
        base = entry.pop("base", None)
        entry["files"] = [_file(each, base) for each in entry["files"]]
        found[name] = Target(**entry)
    return found


def calibration_tsv(archive: Path, ids: Path, out: Path) -> None:
    """MLPerf's calibration captions as TSV: the listed ids, in order, from COCO's annotations."""
    wanted = {int(word) for word in ids.read_text().split()}
    try:
        with zipfile.ZipFile(archive) as opened:
            coco = json.loads(opened.read(ANNOTATIONS))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        message = f"{archive} cannot be used"
        raise UserError(message, str(error), f"a zip with {ANNOTATIONS}") from error
    images = {image["id"]: image for image in coco["images"]}
    chosen = [each for each in coco["annotations"] if each["id"] in wanted]
    if len(chosen) != len(wanted):
        got = f"{len(chosen)} of {len(wanted)} ids"
        raise UserError(f"{archive} lacks captions of {ids.name}", got)
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        for each in sorted(chosen, key=lambda one: int(one["id"])):
            image = images[each["image_id"]]
            caption = each["caption"].replace("\n", "").strip()  # as MLPerf's own script does
            rest = (image[name] for name in COLUMNS[3:])
            table.writerow([each["id"], each["image_id"], caption, *rest])


def _file(entry: dict[str, Any], base: str | None) -> File:
    file = File(**{**entry, "inputs": [_file(each, None) for each in entry.get("inputs", [])]})
    if base and not file.urls:
        file.urls = [f"{base}/{file.inner}"]
    return file


def _git_blob_sha1(path: Path) -> str:
    """The name git gives the file: for files whose repository publishes no other checksum."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def _ids_sha256(path: Path) -> str:
    """Of the caption ids, one a line: the same for the list of ids and for a TSV with them."""
    if path.suffix == ".tsv":
        ids = [id_ for _, id_ in caption_files.read_tsv(path)]
    else:
        ids = path.read_text(errors="replace").split()
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _values_sha256(path: Path) -> str:
    return latents.values_sha256(latents.read(path))


DIGESTS: dict[str, Callable[[Path], str]] = {
    "sha256": store.sha256,
    "sha1": _sha1,
    "git_blob_sha1": _git_blob_sha1,
    "ids_sha256": _ids_sha256,
    "values_sha256": _values_sha256,
}
"""How a checksum of the catalogue is computed, by its key there."""
