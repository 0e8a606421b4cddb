"""Strict JSON text: parsing, errors with reason and place, and large strings kept apart."""
