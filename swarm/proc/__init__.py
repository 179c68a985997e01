"""Processes as the kernel sees them: identity, groups, markers, ports. A leaf: everybody may import it."""
