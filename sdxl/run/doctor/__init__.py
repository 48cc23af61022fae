"""Is everything there that a run needs? `python -m sdxl doctor`, and `preflight` before a run."""

from sdxl.run.doctor.preflight import preflight

__all__ = ["preflight"]
