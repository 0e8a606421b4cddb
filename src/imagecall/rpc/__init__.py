"""What gRPC clients and servers share: addresses, and errors as statuses."""
