"""Notifications: an HTTP POST, an allowed script, or any service that apprise (an extra) knows."""
