"""JSON text to message and back: schema, plan, converter. Knows no gRPC, asyncio or telemetry."""
