"""The brain: observes the swarm, decides, applies; runs no task itself."""
