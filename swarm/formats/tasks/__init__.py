"""Turning input rows into tasks."""
