"""The stages of `train.py`, found by name."""
