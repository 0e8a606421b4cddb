"""The Images API at the HTTP door, for the same backends as the Responses API."""
