"""Proves that every task is whole and in exactly one state."""
