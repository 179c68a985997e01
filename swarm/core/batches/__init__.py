"""Rules for the batches that clients of the HTTP server create. Pure."""
