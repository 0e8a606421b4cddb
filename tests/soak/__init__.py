"""Load, faults and attacks against the real server: `scripts/soak`."""
