"""Runs a local cluster of real processes on loopback, for ``dougctl dev``.

``layout`` and ``ports`` decide whether the cluster can be started, ``specs`` makes the command lines, ``processes`` and
``supervisor`` keep it running, ``logs`` picks the lines to print. Only ``session`` puts them together. Unix only:
``dougdb.commands.dev`` does not import this package on Windows.
"""
