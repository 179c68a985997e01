"""Small records beside the tasks: feeds, notifications, pauses, registrations."""
