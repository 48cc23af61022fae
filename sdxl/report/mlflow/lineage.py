"""What a measurement was made from, as MLflow's dataset inputs: prompts, calibration prompts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sdxl.core.record import Record


def log_datasets(client: Any, run_id: str, record: Record) -> None:
    """The prompts that were drawn and, with a calibrated recipe, those it was calibrated on."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(facts["name"], digest(facts), "local", json.dumps(facts["source"]),
                    profile=json.dumps(facts["profile"])),
            [InputTag("mlflow.data.context", context)],
        )
        for context, facts in datasets(record).items()
    ]  # fmt: skip
    client.log_inputs(run_id, datasets=inputs)


def datasets(record: Record) -> dict[str, dict[str, Any]]:
    """Context -> name, source and profile of each dataset that a record rests on."""
    config = record.config
    given, quant = config["dataset"], config["quant"]
    profile = {"prompts": record.performance.prompts, "limit": config["limit"],
               "shuffle": given["shuffle"], "seed": config["seed"]}  # fmt: skip
    found = {
        "measurement": {
            "name": given["name"],
            "source": {"uri": given.get("path") or given["name"]},
            "profile": {name: value for name, value in profile.items() if value is not None},
        }
    }
    if any(made["kind"] == "checkpoint" and made["parents"] for made in record.artifacts):
        source = quant["statistics"] or quant["calib_dataset"]
        found["calibration"] = {
            "name": quant["calib_dataset"],
            "source": {"uri": source},
            "profile": {"prompts": quant["calib_size"]},
        }
    return found


def digest(facts: dict[str, Any]) -> str:
    """Eight hex digits, as MLflow's own: equal prompts have equal digests."""
    text = json.dumps([facts["source"], facts["profile"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
