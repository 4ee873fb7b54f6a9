"""What operators run on a node's volumes while the node does not run.

Each is a subcommand of ``raft-node``, so that it is at hand in the node's image, and a command of ``dougctl``.
"""
