"""File calls, locks, flushes and wake-ups under the queue."""
