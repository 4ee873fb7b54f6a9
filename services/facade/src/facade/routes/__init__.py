"""The HTTP routes: the key routes as raw ASGI, everything else through FastAPI.

Must not know gRPC: what a request needs, it asks of ``facade.client``.
"""
