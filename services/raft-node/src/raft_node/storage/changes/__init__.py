"""The history of changes: one segment beside each memtable, kept after its flush."""
