"""Fakes and builders that ship with swarm, so that whoever extends it tests against the same ones."""
