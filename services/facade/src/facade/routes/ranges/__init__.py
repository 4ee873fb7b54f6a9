"""Ranges of keys over HTTP: pages, streams of lines, counts, deletions, and the cursors between them."""
