"""What the running processes share: startup, loop, logs, and the ports to the outside."""
