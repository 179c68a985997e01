"""Ways to tell somebody: an HTTP POST, a command from the allow-list, any service apprise knows (an extra)."""

from swarm.notify.deliver import NotTold, check_target, deliver

__all__ = ["NotTold", "check_target", "deliver"]
