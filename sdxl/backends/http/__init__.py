"""A server of OpenAI's images endpoint, measured from outside: each picture is a request.

`python -m sdxl serve` is asked by prompt and noise, and must have the settings of the run; of any
other server (`backend.dialect=openai`) nothing is known but its pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.backends.http.config import Config, Dialect, problems_of
from sdxl.config import schema
from sdxl.config.plugins import Backend


def _open(config: schema.Config, artifacts: dict[str, Path] | None = None) -> Any:
    """A client that has made sure of the server; raises `UserError` where it is another one."""
    from sdxl.backends.http.client import Client

    assert isinstance(config.backend, Config)
    client = Client(config, config.backend)
    if config.backend.dialect is Dialect.sdxl:
        client.compare()
    return client


BACKEND = Backend(
    Config,
    _open,
    "nothing",
    needs_torch=False,
    remote=True,
    problems_of=lambda config: [*problems_of(config)],
)
