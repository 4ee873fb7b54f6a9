"""``python -m dougdb``: dougctl, where its script is not on the path."""

from __future__ import annotations

from dougdb.cli import main

main()
