"""The weights that a training keeps on its way, and what pictures drawn with them score."""
