"""The blocking client: made of ``dougdb.aio`` by ``tools/blocking.py``, but for ``runtime``."""
