"""Makes the cores run: the Ready loop, the log writer thread, waiting proposals and reads, flushes and compactions.

This layer owns the event loop and the threads. It knows no protobuf: the network is a ``Transport`` to it.
"""
