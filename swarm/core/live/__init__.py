"""Rules for requests that a client of the HTTP server waits for. Pure."""
