"""Settings, and how they are read and checked."""
