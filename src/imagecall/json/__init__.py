"""JSON text, strictly: parsed, refused with reason and place, and large strings kept apart."""
