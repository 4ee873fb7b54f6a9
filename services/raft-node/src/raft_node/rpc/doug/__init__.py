"""The Doug service, and what it is made of: the Pipe, scans, watches, deletions of ranges, plain calls."""
