"""Who may do what: tokens, Host and Origin, limits, a fair share for each client."""
