"""What of the UNet an image took under a shortcut, beside what closed rules take."""

from __future__ import annotations

from dataclasses import dataclass

from sdxl.core.record import Record


@dataclass(frozen=True)
class Work:
    """An image's UNet forwards, rows of all of them, and TFLOP with encoders and VAE."""

    shortcut: str
    forwards: int
    rows: int
    tflop: float
    closed_rows: int
    closed_tflop: float

    @property
    def share(self) -> float:
        """Of the operations that closed rules take."""
        return self.tflop / self.closed_tflop

    @property
    def sentence(self) -> str:
        """For a table of one record."""
        return (
            f"{self.shortcut}: {self.forwards} UNet forwards of {self.rows} rows, "
            f"{self.tflop:.4g} TFLOP an image; closed rules: {self.closed_rows} rows, "
            f"{self.closed_tflop:.4g} TFLOP ({self.share:.0%} of it)"
        )


def of(record: Record) -> Work | None:
    """The work of a record with a shortcut; None without one, or where nothing was counted."""
    found, shortcut = record.performance.work, record.config.get("shortcut", {})
    name = str(shortcut.get("name", "none"))
    if name == "none" or not found:
        return None
    closed = found["closed"]
    return Work(
        name, int(found["unet_calls"]), int(found["unet_rows"]), float(found["tflop"]),
        int(closed["unet_rows"]), float(closed["tflop"]),
    )  # fmt: skip
