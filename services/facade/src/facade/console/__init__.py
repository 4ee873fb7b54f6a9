"""The console: pages that browsers get from this facade, and what they show of the cluster.

``assets`` serves the files, ``collector`` asks the nodes once for all browsers, ``view`` and ``history`` say what is
shown, ``app`` has the routes. Nothing of it is loaded by clients that do not ask for it, and ``DOUGDB_CONSOLE_ENABLED``
turns all of it off.
"""
