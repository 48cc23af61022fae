"""Records -> the directory tree that an MLPerf Inference round asks for, and its own check.

`python -m sdxl submission` has the commands.
"""
