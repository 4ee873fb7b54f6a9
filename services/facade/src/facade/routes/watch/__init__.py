"""Watches over HTTP: what is asked for, the sessions and their audience, ids and frames, and waiting for one key."""
