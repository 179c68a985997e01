"""What an operator does to tasks: cancel, retry, purge; and retention."""
