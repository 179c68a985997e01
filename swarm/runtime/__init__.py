"""The running processes: worker, brain, supervisor, and the ports through which they touch the world."""
