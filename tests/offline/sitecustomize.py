"""On PYTHONPATH of every process that the tests start: reaching the network is an error.

The attempt is also written to `$SDXL_TEST_NETWORK_LOG`, since a library may swallow the error.
"""

import os
import sys
from pathlib import Path

LOOPBACK = ("localhost", "127.", "::1", "0.0.0.0", "::")


def _refuse(event, args):
    if event == "socket.connect":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""  # a string is a Unix socket
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    if not host or host.startswith(LOOPBACK):
        return
    if log := os.environ.get("SDXL_TEST_NETWORK_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{event} {host}\n")
    raise OSError(f"tests are offline: {host}")


sys.addaudithook(_refuse)
