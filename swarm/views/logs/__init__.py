"""Reading, merging and following log files."""
