"""One cell from configuration to record, and many of them; called, `sdxl.run({...})` measures."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The room `sdxl.run`, which `import sdxl; sdxl.run({...})` calls."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Measure one setting, as `sdxl.run.api.run` does."""
        from sdxl.run import api

        return api.run(*args, **named)


sys.modules[__name__].__class__ = _Callable
