"""The gRPC door: the services of the schema, and their server."""
