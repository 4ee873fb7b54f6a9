"""gRPC's streams over HTTP/2 by hand, for the few calls that carry the load.

``grpc.aio`` costs some 350 us of CPU for a round trip, and nearly all of it is threads that wake each other, not the
protocol. This package speaks the same bytes on the event loop for a tenth of that. Everything else stays with grpcio.

Two halves:

- The core (``connection`` and what it uses) turns bytes into events and calls into bytes. It has no socket, no task, no
  clock: times come in from outside.
- The transport (``endpoint``, ``client``, ``server``, ``front``) runs it on asyncio, with the interface of grpc.aio.

Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK, by the hpack package), gRPC over HTTP2 (grpc/doc/PROTOCOL-HTTP2.md);
docs/adr/0009-a-stream-of-our-own.md.
"""
