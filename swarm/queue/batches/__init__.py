"""What is known of a batch: its record, counts and limits."""
