"""The small commands, in one table.   python -m sdxl COMMAND [WORDS]"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "report": ("sdxl.report.command", "what was measured, and which setting to ship"),
    "diff": ("sdxl.report.diff", "what differs between two records, and what of it is noise"),
    "doctor": ("sdxl.run.doctor.command", "is everything there that a run needs"),
    "download": ("sdxl.model.download.command", "published files into the store"),
    "mlflow": ("sdxl.report.mlflow.command", "its pages, and uploading what a dead server missed"),
    "verdict": ("sdxl.report.verdict", "MLPerf's gates, one by one, of any records"),
    "submission": ("sdxl.bench.mlperf.submission.command", "an MLPerf submission: make and check"),
    "statistics": ("sdxl.quality.statistics", "FID's reference statistics of a folder of pictures"),
    "bundle": ("sdxl.training.bundle", "pack trained networks as a diffusers folder"),
    "shards": ("sdxl.training.data.shards", "pictures and captions into tar shards of latents"),
}
"""By name: the module that has `main(words) -> exit code`, and what it does."""


def main() -> int:
    """Run the command that is named; without a name, list them."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("\n".join(_table()))
        return 0 if words else 2
    if words[0] not in COMMANDS:
        return _unknown(words[0])
    module, _ = COMMANDS[words[0]]
    return int(importlib.import_module(module).main(words[1:]))


def _table() -> list[str]:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return ["usage: python -m sdxl COMMAND [WORDS]", "", *lines, "",
            "python -m sdxl COMMAND --help says more."]  # fmt: skip


def _unknown(word: str) -> int:
    from sdxl.core.command import ended
    from sdxl.core.errors import UserError, did_you_mean

    def refuse() -> None:
        close = did_you_mean(word, COMMANDS)
        raise UserError(
            f"there is no command `{word}`",
            expected=f"did you mean `{close}`?" if close else "one of: " + " ".join(COMMANDS),
            fix=f"python -m sdxl {close or '--help'}",
        )

    return ended(refuse)


if __name__ == "__main__":
    sys.exit(main())
