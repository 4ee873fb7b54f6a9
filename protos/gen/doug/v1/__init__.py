"""Version 1 of DougDB's gRPC messages and services, generated from protos/doug/v1."""
