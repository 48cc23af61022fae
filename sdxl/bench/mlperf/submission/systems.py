"""The system's description: the fields MLPerf asks for, and those this machine can fill in."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import rounds
from sdxl.bench.mlperf.submission.gather import Asked
from sdxl.core import environment, gpu, json_file
from sdxl.core.errors import ConfigError, Problem, UserError

MEANINGFUL = (
    "division", "submitter", "system_type", "status", "system_name", "number_of_nodes",
    "host_processor_model_name", "host_processors_per_node", "host_processor_core_count",
    "host_memory_capacity", "host_memory_configuration", "host_storage_capacity",
    "host_storage_type", "host_networking", "host_network_card_count", "host_networking_topology",
    "accelerators_per_node", "accelerator_model_name", "accelerator_memory_capacity",
    "accelerator_host_interconnect", "accelerator_memory_configuration",
    "accelerator_interconnect", "cooling", "framework", "operating_system",
    "other_software_stack",
)  # fmt: skip
"""Fields that must say something; a number 0 counts as nothing, the word "0" does not."""

FIELDS = (
    *MEANINGFUL, "host_processor_frequency", "host_processor_caches",
    "host_processor_interconnect", "accelerator_frequency", "accelerator_interconnect_topology",
    "accelerator_on-chip_memories", "hw_notes", "sw_notes", "system_type_detail",
)  # fmt: skip
"""Fields that must be there (submission checker, constants.py)."""

STATUSES = ("available", "preview", "rdi")
COUNTS = ("number_of_nodes", "host_processors_per_node", "accelerators_per_node")
"""Whole numbers, with which the official tools compute."""
NETWORK = "is_network"
"""Written as the words true or false, where it is there at all."""
NETWORK_FIELDS = (
    NETWORK, "network_type", "network_media", "network_rate", "nic_loadgen", "number_nic_loadgen",
    "net_software_stack_loadgen", "network_protocol", "number_connections", "nic_sut",
    "number_nic_sut", "net_software_stack_sut", "network_topology",
)  # fmt: skip
"""Fields that a description with `is_network` must have, too, whatever that says."""


def describe() -> dict[str, str]:
    """A description of this machine: what could be found out, and "" for the rest."""
    import psutil

    here = environment.describe()
    gpus = list(gpu.names().values())
    versions = here["packages"]
    found = {
        "status": "available",
        "number_of_nodes": "1",
        "host_processor_model_name": here["cpu"],
        "host_processors_per_node": str(_sockets()),
        "host_processor_core_count": str(psutil.cpu_count(logical=False) or os.cpu_count()),
        "host_memory_capacity": f"{here['memory_bytes'] / 2**30:.0f} GiB",
        "host_network_card_count": str(len(psutil.net_if_addrs())),
        "accelerators_per_node": str(len(gpus)),
        "accelerator_model_name": gpus[0] if gpus else "N/A",
        "framework": f"PyTorch {versions.get('torch', '')}".strip(),
        "operating_system": platform.platform(),
        "other_software_stack": ", ".join(f"{name} {v}" for name, v in sorted(versions.items())),
    }
    if not gpus:
        absent = [field for field in MEANINGFUL if field.startswith("accelerator_")]
        found |= dict.fromkeys(absent, "N/A")
    ours = ("division", "submitter", "system_type")
    return {field: found.get(field, "") for field in FIELDS if field not in ours}


def read(path: Path, asked: Asked) -> dict[str, Any]:
    """The description from `path` with what the command line says; complete, or a `ConfigError`."""
    try:
        found = json_file.read(path)
    except (OSError, ValueError) as error:
        raise UserError(
            "the system's description cannot be read", f"{path}: {error}", "a JSON object",
            f"python -m sdxl submission describe {path}",
        ) from error  # fmt: skip
    if not isinstance(found, dict):
        raise UserError(f"{path} is no description", type(found).__name__, "a JSON object")
    whole = {
        **dict.fromkeys(FIELDS, ""),
        **found,
        "system_name": found.get("system_name") or asked.system,
        "division": asked.division,
        "submitter": asked.submitter,
        "system_type": asked.system_type,
    }
    if problems := list(complaints(whole)):
        raise ConfigError([Problem(f"{path}: {text}") for text in problems])
    return whole


def complaints(description: dict[str, Any]) -> list[str]:
    """What the checker would say of a description."""
    wanted = [*FIELDS, *(NETWORK_FIELDS if description.get(NETWORK) else ())]
    found = [f"no field {field}" for field in wanted if field not in description]
    found += [
        f"{field} says nothing" for field in MEANINGFUL if not description.get(field, "missing")
    ]
    found += [
        f"{field} is {description[field]!r}, no whole number"
        for field in COUNTS
        if description.get(field) and not _whole(description[field])
    ]
    status, kind = description.get("status"), description.get("system_type")
    if status and str(status).lower() not in STATUSES:
        found.append(f"status is {status}, not one of {', '.join(STATUSES)}")
    if kind and kind not in rounds.SYSTEM_TYPES:
        found.append(f"system_type is {kind!r}, not one of {' | '.join(rounds.SYSTEM_TYPES)}")
    return found + _network(description)


def _whole(value: Any) -> bool:
    """Whether it counts something; `8`, `"8"`, not `8.0` nor `"2x4"`."""
    return not isinstance(value, bool | float) and str(value).strip().isdecimal()


def _network(description: dict[str, Any]) -> list[str]:
    """The closed division's systems are no network's, the network division's are."""
    said, division = description.get(NETWORK), description.get("division")
    if said is not None and not isinstance(said, str):
        return [f"{NETWORK} is {said!r}, not the word true or false"]
    over = str(said).lower() == "true"
    expected = {"closed": False, "network": True}.get(str(division), over)
    return [] if over is expected else [f"{NETWORK} is {said}, in the {division} division"]


def _sockets() -> int:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return 1
    return len({line for line in lines if line.startswith("physical id")}) or 1
