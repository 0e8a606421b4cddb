"""Running server: settings, workers, and the composition of doors and backend."""
