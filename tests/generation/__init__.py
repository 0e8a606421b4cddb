"""Requests, responses and the parts of an answer."""
