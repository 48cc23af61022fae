"""8-bit kernels in Triton; imported by the torch backend alone, and only where it needs them.

Written for Triton 3.6 to 3.9. Scales come from the checkpoint and are static: no kernel looks for a
maximum. `reference` says in plain PyTorch what each one computes.
"""
