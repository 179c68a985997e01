"""Liveness, circuit breaker, repair ladder, GPU health. Pure."""
