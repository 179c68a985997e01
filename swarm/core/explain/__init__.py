"""Why a task waits, why a worker idles. Pure."""
