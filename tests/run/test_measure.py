"""What puts the figures of a measurement in doubt."""

import pytest

from sdxl.config.schema import Foreign
from sdxl.core.errors import SdxlError
from sdxl.core.record import Record
from sdxl.run import measure

DISTURBED = {"threads": 2, "before_us": 1.2, "after_us": 2.1, "least_us": 1.1}
SHARED = {"cpu_cores_ours": 1.0, "cpu_cores_elsewhere": 0.9, "cpu_cores": 2}


def measured(device="cpu", region=DISTURBED, probe=None):
    return Record.from_json({
        "key": "", "config": {}, "command": "",
        "performance": {"generator": {"device": device}},
        "environment": {"parallel_region": region},
        "resources": {"probe": {"cpu_cores": 2, "cpu_cores_elsewhere": 0.0, **(probe or {})}},
    })  # fmt: skip


def test_a_disturbing_host_is_a_warning_and_never_an_error():
    record = measured()
    measure._alone(Foreign.error, record)
    (warning,) = record.resources.probe.warnings
    assert "2.1 us, 1.1 us at best" in warning


@pytest.mark.parametrize("record", [
    measured(device="cuda:0"), measured(region={}), measured(region={**DISTURBED, "after_us": 1.3}),
])  # fmt: skip
def test_nothing_else_is(record):
    measure._alone(Foreign.error, record)
    assert record.resources.probe.warnings == []


def test_other_programs_explain_it():
    record = measured(probe=SHARED)
    measure._alone(Foreign.warn, record)
    (warning,) = record.resources.probe.warnings
    assert warning.startswith("the machine was shared")
    with pytest.raises(SdxlError, match="not this program's alone"):
        measure._alone(Foreign.error, measured(probe=SHARED))
