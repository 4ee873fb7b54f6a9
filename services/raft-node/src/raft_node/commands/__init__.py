"""What operators run on a node's files.

Each is a subcommand of ``raft-node``, so that it is at hand in the node's image, and a command of ``dougctl``.
"""
