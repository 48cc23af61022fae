"""What quality is drawn against: speed, and what an image costs where records have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdxl.report.cell import Cell


@dataclass(frozen=True)
class Axis:
    """A figure of a cell that trades against its quality; `less`: the smaller, the better."""

    name: str
    unit: str
    value: Callable[[Cell], float | None]
    less: bool = False

    def merit(self, cell: Cell) -> float:
        """Grows as a cell gets better; only of cells that have the figure."""
        found = self.value(cell) or 0.0
        return -found if self.less else found

    @property
    def label(self) -> str:
        """Its unit with an arrow to the better end."""
        return f"← {self.unit}" if self.less else f"{self.unit} →"


SPEED = Axis("speed", "images/s", lambda cell: cell.speed)
COSTS = (
    Axis("energy", "J/image", lambda cell: cell.joules, less=True),
    Axis("price", "price of 1,000 images", lambda cell: cell.price, less=True),
)
AXES = (SPEED, *COSTS)
