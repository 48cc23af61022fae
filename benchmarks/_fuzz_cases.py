"""Odd command lines and odd values, each a function of a seed and a number."""

from __future__ import annotations

import dataclasses
import random
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from sdxl.config import plugins, schema
from sdxl.config.schema import train
from sdxl.core.paths import CONF

NUMBERS = (
    *("0", "1", "2", "3", "7", "-1", "-0", "0.5", "1e-300", "-1e-9", "1e300", "1e308", "nan"),
    *("inf", "-inf", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551616", "1000000", "1_000", "0x10", "1e3", "1.5", "true", "null", "99999999"),
)
TEXTS = (
    *("x", "''", "' '", "null", "a b", "'[bold]x'", "'[/y]'", "'\\x1b[31mred'", "'\\u202e'", "{}"),
    *("[]", "[[1],[2]]", "[1,2]", "{a:1}", "{a:{b:c}}", "${seed}", "${nowhere}", "${oc.env:HOME}"),
    *("é模型", "a=b", "a@b#c", "(a:1.4), b", "*", "a*b?c", "~", "/", ".", "..", "/nonexistent/x"),
    *("store:x", "store:../x", "'a|b'", "=1+1", "@x", "a,b", "1,2,3", "range(1,3)", "choice(1,2)"),
    *("glob(*)", "interval(0,1)", "\\", "'", '"', "a'b", "x" * 300, "file://x", "http://h:1/"),
    *("sort(3,1)", "shuffle(1,2)", "str(1)", "int(x)", "extend_list(1)", "-1", "0", "???", "%"),
)
HYDRA = (
    *("hydra.mode=MULTIRUN", "hydra.verbose=true", "hydra.job.chdir=true", "hydra.job.name=x"),
    *("hydra.output_subdir=null", "hydra/launcher=basic", "hydra/launcher=x", "hydra.x=1"),
    *("hydra/sweeper=basic", "hydra/sweeper=x", "hydra.sweeper.params=1", "hydra.job.env_set.A=1"),
    *("+hydra.x=1", "~hydra.job", "hydra=x", "hydra.sweep.subdir=x", "hydra.launcher.n_jobs=2"),
)
SWITCHES = (
    *("-m", "--multirun", "--help", "-h", "--hydra-help", "--version", "--cfg", "--cfg=job", "-c"),
    *("--info", "--info=x", "--resolve", "--package=model", "--config-name=x", "--config-dir"),
    *("--config-dir=/nonexistent", "--config-path=x", "-x", "--plan", "--", "-", "--run", "-cn=x"),
    *("--experimental-rerun=x", "--shell-completion", "-sc", "--cfg=hydra"),
)
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
ODD_WORDS = (
    *("", " ", "=", "==", "=1", "seed", "seed=", "+", "+=", "+seed=1", "++seed=1", "~seed"),
    *("~model", "~model=tiny", "++x=1", "+x.y=1", "x=1", "*.name=x", "model.*=1", "model.=1"),
    *(".seed=1", "seed.x=1", "model@x=tiny", "model@_global_=tiny", "+model@x=tiny", "a/b=c"),
    *("seed=1 limit=2", "seed =1", "seed= 1", "backend=1", "backend=null", "backend=[fake]"),
    *("backend=fake,torch", "model={name:tiny}", "+sweep=quant_grid", "sweep=quant_grid"),
    *("+sweep=x", "preset=x", "experiment=x", "+experiment=x", "experiment=harness_check"),
    *("+experiment=harness_check", "+experiment=mlperf_offline", "plan=true,false", "plan=1"),
    *("model.path=/data/epoch=3/x", "model.path=模型/x v1", "model.path=/data/x@v2#1"),
    *("model.negative_prompt=(worst quality:1.4), blurry", "quant.exclude=[(a|b)]"),
    *('quant.exclude=["*x*"]', "model.lora=[a.safetensors,b.safetensors]", "quant.exclude=[a"),
    *("quant.include=[[a],[b]]", "backend.devices=[[0],[1]]", "backend.devices=[x]", "ümlaut=1"),
    *("scenario.name=Server", "backend.name=torch", "quality.name=full", "model.name=x"),
)
SMALL = {
    "report": ("--min-psnr", "--html", "--markdown", "--json", "--png", "--prompts"),
    "diff": ("--json",),
    "doctor": ("--checksums",),
    "download": ("nonsense", "--dry-run", "--from"),
    "mlflow": ("upload", "--uri", "--experiment", "--parent"),
    "verdict": ("--json",),
    "submission": ("describe", "build", "check", "--system", "--submitter", "--out", "--round"),
    "statistics": ("--inception", "--device", "cpu", "foo"),
    "bundle": ("scenes",),
    "shards": ("--per-shard", "model=tiny", "--embeddings"),
    "gate": ("--min-psnr", "--max-latency-ms", "--against", "--junit", "--json", "nan", "-1"),
    "score": ("--extra", "lpips", "dists", "--weights", "x:y", "--captions", "--inception"),
    "generate": ("x", "--n", "--seed", "--record", "last", "best", "limit=2", "quant=int8"),
    "pack": ("--to", "x", "--as", "diffusers", "onnx", "comfyui", "--check", "-1", "best"),
    "serve": ("--port", "--batch", "--devices", "0,0", "--queue", "--host", "last", "--ray"),
    "import": ("--out", "--round"),
    "nonsense": ("x",),
}
"""Words of the small commands, none of which starts a server or asks a network."""
ALWAYS = {"generate": ("backend=fake",), "serve": ("backend=http",)}
"""What keeps a small command from drawing for minutes, or from serving for ever."""
DAMAGE = (
    *(b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b'{"key": 1}', b"\xff\xfe\x00", b"\x00" * 64),
    *(b'{"key": "k", "config": {}, "command": "c"}', b"[" * 9000, b'{"key": {}, "config": []}'),
    *(b'{"key": "k", "config": {}, "command": "c", "status": "\\u001b[31m[/x]"}', b"PK\x03\x04"),
    *(b'{"key":"k","config":{"model":1},"command":"c","performance":{"images_per_second":"x"}}',),
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A setting: its key, its type, and whether it may be null."""

    key: str
    kind: Any
    optional: bool


def leaves(node: type, prefix: str = "") -> Iterator[Leaf]:
    """Every setting of a schema's class."""
    hints = typing.get_type_hints(node)
    for field in dataclasses.fields(node):
        hint, optional = hints[field.name], False
        if typing.get_origin(hint) is typing.Union:
            optional, hint = True, typing.get_args(hint)[0]
        if not dataclasses.is_dataclass(hint):
            yield Leaf(prefix + field.name, hint, optional)


def all_leaves() -> dict[str, Leaf]:
    """Every setting of every group and of the top, by its key."""
    nodes = [("", schema.Config)]
    nodes += [(f"{group}.", n) for group, found in schema.GROUPS.items() for n in found.values()]
    nodes += [("backend.", each.config) for each in plugins.backends().values()]
    nodes += [("quality.", each.config) for each in plugins.quality_options().values()]
    nodes += [("train.", train.Training), ("train.", train.Finetune), ("export.", schema.Export)]
    return {leaf.key: leaf for prefix, node in nodes for leaf in leaves(node, prefix)}


LEAVES = all_leaves()


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def value(draw: random.Random, leaf: Leaf) -> str:
    """A value as it is typed: mostly of its kind, often at the edge, sometimes anything."""
    if draw.random() < 0.12:
        return draw.choice(TEXTS)
    if leaf.kind in (int, float):
        return draw.choice(NUMBERS)
    if leaf.kind is bool:
        return draw.choice(("true", "false", "1", "null", "yes", "maybe"))
    if isinstance(leaf.kind, type) and issubclass(leaf.kind, Enum):
        return draw.choice([*(str(each.value) for each in leaf.kind), "x", "null"])
    return draw.choice(TEXTS)


def word(draw: random.Random) -> str:
    """One word of a command that takes a configuration."""
    kind = draw.random()
    if kind < 0.45:
        leaf = draw.choice(list(LEAVES.values()))
        return f"{draw.choice(('', '', '', '', '+', '++'))}{leaf.key}={value(draw, leaf)}"
    if kind < 0.75:
        group = draw.choice(GROUPS)
        sign = "+" if group in ("experiment", "sweep", "latency", "rung", "candidate") else ""
        near = [*options(group), draw.choice(options(group))[:-1], "x"]
        return f"{sign}{group}={draw.choice(near)}"
    if kind < 0.9:
        return draw.choice(ODD_WORDS)
    return draw.choice(HYDRA if kind < 0.95 else SWITCHES)


def line(seed: int, number: int, damaged: Path) -> tuple[str, list[str]]:
    """A command's name and its words; nothing but the cheapest work may come of them."""
    draw = random.Random(f"line {seed} {number}")
    name = draw.choices(("run", "quantize", "export", "train", "small"), (45, 12, 12, 12, 19))[0]
    if name == "small":
        name = draw.choice(list(SMALL))
        files = sorted(map(str, damaged.iterdir()))
        pool = (*SMALL[name], *draw.sample(files, 3), "--help", "--x", "", "/nonexistent", "1")
        words = [draw.choice(pool) for _ in range(draw.randint(0, 4))]
        return name, [*words, *ALWAYS.get(name, ())]
    words = [word(draw) for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4, 6)))]
    if draw.random() < 0.1:
        words.append("-m")
    return name, [*words, "plan=true"]


def real_line(seed: int, number: int) -> list[str]:
    """Words of a run that may measure: a backend without a model, a handful of pictures."""
    draw = random.Random(f"real {seed} {number}")
    keys = [k for k in LEAVES if k.startswith(("scenario.", "backend.", "quality.", "tracking."))]
    keys += ["limit", "seed", "mode", "repeat", "rules", "round", "submission", "rerun", "plan"]
    words = []
    for key in draw.sample(keys, draw.choice((0, 1, 1, 2, 3))):
        words.append(f"{key}={value(draw, LEAVES[key])}")
    if draw.random() < 0.2:
        words += ["-m", "seed=1,2"]
    return ["backend=fake", "quality=none", "tracking=off", "limit=4", "timeout_s=20", *words]


def damage(folder: Path) -> None:
    """Files that are not what their names say."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(DAMAGE):
        for name in ("record.json", "x.safetensors", "x.tsv", "x.npz"):
            (folder / f"{number:02d}-{name}").write_bytes(content)
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "[bold]x").mkdir(exist_ok=True)
