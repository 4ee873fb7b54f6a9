"""The network: protobuf to values and back, streams to and from the peers, and the services that clients call."""
