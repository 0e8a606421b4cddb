"""The HTTP door: the Responses API in JSON, for unmodified SDKs."""
