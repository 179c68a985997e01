"""Which worker should hold which model. Pure."""
