"""How tasks get in."""
