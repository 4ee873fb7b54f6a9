"""A local cluster of real processes on loopback: what ``dougctl dev`` does.

``layout`` and ``ports`` decide what may be started, ``specs`` what exactly, ``processes`` and ``supervisor`` keep it
running, ``logs`` what the console shows of it. Only ``session`` puts them together. Unix only: ``dougdb.commands.dev``
imports nothing of this on Windows.
"""
