"""Processes as the kernel sees them: identity, groups, markers, ports.

A leaf: every package may import it.
"""
