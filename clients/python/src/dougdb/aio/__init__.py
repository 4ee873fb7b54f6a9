"""The client for asyncio. Of the two clients, this one is written by hand.

``tools/blocking.py`` makes ``dougdb.blocking`` of it, module by module. What differs by nature (how to wait, how to do
something meanwhile, the transport) is in ``runtime`` of either package, by hand.
"""
