"""Whether the pictures are good: scores of a run's own, and the comparison with a baseline."""
