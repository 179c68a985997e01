"""What is wrong, judged from evidence. Pure."""
