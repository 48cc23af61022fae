"""Old names of small commands; `sdxl/__init__.py` puts this folder on the package's path."""
