"""SSTables: how they are written and read, what they are made of, and which of them are the state."""
