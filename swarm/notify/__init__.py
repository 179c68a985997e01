"""Notifications: an HTTP POST, an allowed script, or any service of apprise (an extra)."""
