"""`python -m sdxl.download`, the same as `python -m sdxl download`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "download")
    runpy.run_module("sdxl", run_name="__main__")
