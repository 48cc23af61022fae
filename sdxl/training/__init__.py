"""Training: one loop, a stage per network, everything resumable to the bit."""
