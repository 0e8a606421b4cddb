"""Code shared by gRPC clients and servers: addresses, channels, headers, errors as statuses."""
