"""The work behind ``run``, ``submit`` and ``feed``: prepare, submit, watch, collect."""
