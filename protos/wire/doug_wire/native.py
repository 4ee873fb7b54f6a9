"""How many modules of this process are native: none, unless ``PYTHONPATH`` names what ``make compiled`` makes.

Pure Python is the reference, and what runs by default; see docs/adr/0021-native-modules-as-an-option.md. Only the log,
the metrics and ``--version`` tell it: nothing may behave differently by it.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader

_PACKAGES = frozenset(("doug_stream", "doug_wire", "facade", "raft_node"))


def modules() -> int:
    """The number of native modules that this process has imported so far."""
    return sum(
        1
        for name, module in tuple(sys.modules.items())
        if name.partition(".")[0] in _PACKAGES
        and isinstance(getattr(getattr(module, "__spec__", None), "loader", None), ExtensionFileLoader)
    )


def said() -> str:
    """What ``--version`` says about it: nothing where there are none."""
    count = modules()
    return f" ({count} native modules)" if count else ""
