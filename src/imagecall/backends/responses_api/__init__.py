"""The backend that calls a Responses API over HTTP."""
