"""Pure rules and data: no files, clock, processes, network, logging or randomness.

Time arrives as data.
"""
