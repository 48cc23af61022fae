"""Training: one loop, a stage per network, everything resumable, on a CPU to the bit."""
