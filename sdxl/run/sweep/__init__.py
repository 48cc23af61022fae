"""Multiruns: which cells there are, in which order, what they share, how it ends."""
