"""The HTTP door: the Responses API and the Images API, for unmodified SDKs."""
