"""Dependencies, fan-out, templates, feeds. Pure."""
