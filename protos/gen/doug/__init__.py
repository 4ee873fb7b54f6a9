"""Generated gRPC stubs of DougDB."""
