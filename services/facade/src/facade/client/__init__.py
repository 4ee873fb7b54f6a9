"""The way from the facade to the raft-nodes: partition map, leader finding, batching links, deadlines, retries.

Must not know HTTP. Everything here runs on one event loop, without locks.
"""
