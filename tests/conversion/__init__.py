"""JSON to message and back."""
