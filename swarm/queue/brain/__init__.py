"""The queue as the brain uses it: blocked tasks, releases, completions."""
