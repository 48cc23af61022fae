"""Whether the pictures are good: scores of a run's own pictures, and the comparison with a twin."""
