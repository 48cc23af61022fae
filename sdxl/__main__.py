"""Every command by name.   python -m sdxl COMMAND [WORDS]; installed: sdxl COMMAND [WORDS]"""

from __future__ import annotations

import importlib
import sys

from sdxl.core import collector, ends, kept_help

EXPERIMENTS = {
    "run": "measure one setting, or a sweep, with MLPerf LoadGen",
    "quantize": "calibrate and quantize the UNet",
    "export": "make ONNX graphs and engines",
    "train": "train and tune networks",
}
"""The four commands that take a configuration; `run` is the same as `python run.py`."""

COMMANDS = {
    "report": ("sdxl.report.command", "what was measured, and which setting to ship"),
    "diff": ("sdxl.report.diff", "what differs between two records, and what of it is noise"),
    "gate": ("sdxl.report.gate", "pass or fail by limits, for the CI of a model"),
    "generate": ("sdxl.run.generate", "pictures of a prompt, by the setting of a record"),
    "pack": ("sdxl.run.pack.command", "the winner as diffusers' or another tool's files, checked"),
    "serve": ("sdxl.run.serve.command", "the setting of a record behind OpenAI's images endpoint"),
    "doctor": ("sdxl.run.doctor.command", "is everything there that a run needs"),
    "download": ("sdxl.model.download.command", "published files into the store"),
    "mlflow": ("sdxl.report.mlflow.command", "its pages, and uploading what a dead server missed"),
    "verdict": ("sdxl.report.verdict", "MLPerf's gates, one by one, of any records"),
    "submission": ("sdxl.bench.mlperf.submission.command", "an MLPerf submission: plan to check"),
    "import": ("sdxl.bench.mlperf.importing", "published MLPerf results as records beside yours"),
    "statistics": ("sdxl.quality.statistics", "FID's reference statistics of a folder of pictures"),
    "score": ("sdxl.quality.score", "pictures made elsewhere beside others of the same names"),
    "bundle": ("sdxl.training.bundle", "pack trained networks as a diffusers folder"),
    "shards": ("sdxl.training.data.shards", "pictures and captions into tar shards of latents"),
}
"""The small commands: the module that has `main(words) -> exit code`, and what it does."""


def main() -> int:
    """Run the command that is named; without a name, list them."""
    ends.early()
    collector.relax()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("\n".join(_table()))
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name in EXPERIMENTS:
        kept_help.answer(name, rest)
        from sdxl.cli import start

        start(name, rest)
    if name not in COMMANDS:
        return _unknown(name)
    module, _ = COMMANDS[name]
    return int(importlib.import_module(module).main(rest))


def _table() -> list[str]:
    told = EXPERIMENTS | {name: text for name, (_, text) in COMMANDS.items()}
    width = max(map(len, told))
    lines = [f"  {name:<{width}}  {text}" for name, text in told.items()]
    return [
        "usage: sdxl COMMAND [WORDS], or python -m sdxl COMMAND [WORDS]",
        "",
        *lines,
        "",
        "sdxl COMMAND --help says more.",
    ]


def _unknown(word: str) -> int:
    from sdxl.core.command import ended
    from sdxl.core.errors import UserError, did_you_mean

    names = [*EXPERIMENTS, *COMMANDS]

    def refuse() -> None:
        close = did_you_mean(word, names)
        raise UserError(
            f"there is no command `{word}`",
            expected=f"did you mean `{close}`?" if close else "one of: " + " ".join(names),
            fix=f"python -m sdxl {close or '--help'}",
        )

    return ended(refuse)


if __name__ == "__main__":
    sys.exit(main())
