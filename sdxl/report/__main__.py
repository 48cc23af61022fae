"""`python -m sdxl.report`, the same as `python -m sdxl report`."""

import sys

from sdxl.report.command import main

sys.exit(main())
