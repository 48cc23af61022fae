"""Hydra's door to our sweeps: Hydra composes and launches the cells, `sdxl.run.sweep` says which.

Hydra takes sweepers from `hydra_plugins` only. It imports this file at every start: keep it light.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class SweeperConf:
    """`hydra.sweeper`: what to sweep over, and how far to search."""

    _target_: str = "hydra_plugins.sdxl_sweeper.SdxlSweeper"
    params: Optional[dict[str, str]] = None  # name -> `1,2`, `range(...)`, `choice(...)`
    max_batch_size: Optional[int] = None  # cells launched at a time; null: all that are missing
    trials: Optional[int] = None  # null: every combination; N: search for the best with N cells
    min_psnr: Optional[float] = None  # dB to the reference, else to the baseline: the quality bound
    seed: int = 0  # of the search


class SdxlSweeper(Sweeper):
    """Hands Hydra's launcher to the sweep of this command."""

    def __init__(self, **_: Any) -> None:
        """Hydra's settings; the sweep has read them before it showed its plan."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `sweep`."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the cells; their outcomes are in their records."""
        from sdxl.core.secrets import hide
        from sdxl.run.sweep import current

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "multirun.yaml").write_text(hide(OmegaConf.to_yaml(self.config)))
        current.sweep().run(lambda jobs: self.launcher.launch(jobs, initial_job_idx=0))


ConfigStore.instance().store(group="hydra/sweeper", name="sdxl", node=SweeperConf, provider="sdxl")
