"""The client for asyncio: the one of the two that is written by hand.

``tools/blocking.py`` makes ``dougdb.blocking`` of it, module by module. What differs by nature (how to wait, how to do
something meanwhile, the transport) is in ``runtime`` of either package, by hand.
"""
