"""Who may do what: grants and their one rule, tokens, and the document that shard 0 keeps. Pure functions.

Must not know HTTP, gRPC, files or clocks. Both services use it, so that a request is judged alike wherever it comes in.
"""
