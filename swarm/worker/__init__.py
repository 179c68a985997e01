"""One worker: claims tasks, runs them in slots, records outcomes."""
