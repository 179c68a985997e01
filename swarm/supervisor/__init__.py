"""Starts, restarts and ends the processes of a swarm."""
