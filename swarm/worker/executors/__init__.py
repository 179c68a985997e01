"""Executors: what runs the tasks of each class."""
