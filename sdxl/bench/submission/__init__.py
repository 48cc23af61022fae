"""Records -> the directory tree that an MLPerf Inference round asks for, and its own check.

`python -m sdxl.bench.submission` has the commands.
"""
