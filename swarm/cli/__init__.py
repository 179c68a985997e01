"""The command line: thin functions over views; everything heavy is imported inside the commands."""
