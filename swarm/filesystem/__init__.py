"""Files below the queue: what an entry is, who could change it, how it becomes durable."""
