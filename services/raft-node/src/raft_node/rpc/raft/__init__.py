"""The Raft service and the streams between members: messages, who is reached where, and who may speak."""
