"""JSON text to message and back: schema, plan, converter. No gRPC, asyncio or telemetry."""
