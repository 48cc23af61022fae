"""`python -m sdxl.doctor`, the same as `python -m sdxl doctor`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "doctor")
    runpy.run_module("sdxl", run_name="__main__")
