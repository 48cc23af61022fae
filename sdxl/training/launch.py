"""Who trains together: torchrun's ranks, else those of Slurm's step or of submitit's job."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping

from sdxl.core import terminal
from sdxl.core.errors import UserError

_PORTS = (20000, 60000)
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where launchers say how many tasks they have started; Slurm's of this step, not of the job."""


def settle() -> None:
    """Tell torch and accelerate the ranks, where a launcher other than torchrun knows them.

    Raises `UserError` for several tasks that know nothing of each other: each would train it all.
    """
    if "RANK" in os.environ:
        return
    found = _of_submitit() if os.environ.get("SUBMITIT_EXECUTOR") else _of_slurm(os.environ)
    if found:
        os.environ.update(found)
        return
    for name in _TASKS:
        if (tasks := os.environ.get(name, "1")) != "1":
            raise UserError(
                f"{tasks} tasks were started, and none knows its number among them",
                f"{name}={tasks}, no RANK",
                "torchrun, srun, or submitit, which give each task its rank",
                f"torchrun --nproc-per-node {tasks} train.py ...",
            )


def say(text: str) -> None:
    """A line on standard error, of the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        terminal.say(text)


def _of_submitit() -> dict[str, str]:
    """The ranks of a job with several tasks; empty for one of a single task."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    if job.num_tasks < 2:
        return {}
    address = "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0]
    return _ranks(job.global_rank, job.num_tasks, job.local_rank, address, str(job.job_id))


def _of_slurm(given: Mapping[str, str]) -> dict[str, str]:
    """The ranks of a step of `srun` with several tasks; empty for others."""
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST")
    if given.get(names[1], "1") == "1" or not all(map(given.get, names)):
        return {}
    rank, tasks, local = (int(given[name]) for name in names[:3])
    step = ".".join(given.get(f"SLURM_{name}_ID", "") for name in ("JOB", "STEP"))
    return _ranks(rank, tasks, local, first_host(given[names[3]]), step)


def _ranks(rank: int, tasks: int, local: int, address: str, job: str) -> dict[str, str]:
    port = os.environ.get("MASTER_PORT") or random.Random(job).randint(*_PORTS)
    found = {
        "RANK": rank,
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": local,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in found.items()}


def first_host(nodes: str) -> str:
    """The first of Slurm's list of hosts, such as `gpu[003-007,9],login`."""
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes
