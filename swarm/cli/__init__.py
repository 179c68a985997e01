"""The command line: thin functions over views.

Everything that is slow to import is imported inside the commands.
"""
