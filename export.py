"""Make the graphs and engines of one setting; `python export.py --help` lists what can be set."""

import sys

from sdxl.core import collector, ends, kept_help

if __name__ == "__main__":
    ends.early()  # before seconds of imports
    collector.relax()
    kept_help.answer("export", sys.argv[1:])

import hydra

from sdxl.cli import command, job
from sdxl.config.registry import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="export")
def main(cfg):
    from sdxl.run.export import run

    job(run, cfg)


if __name__ == "__main__":
    command(main)
