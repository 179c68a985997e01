"""One family of errors. Each says what happened and, in ``hint``, what to try next.

Expected outcomes (a lost race, a stale decision) are values, not errors; see ``swarm.core``.
"""

from __future__ import annotations

from collections.abc import Iterable

EXIT_OK = 0
EXIT_TASKS_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_INTERRUPTED = 130


class SwarmError(Exception):
    """Something went wrong in swarm."""

    exit_code = EXIT_USAGE
    """Exit status of a command that ends with this error."""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.hint = hint

    @property
    def message(self) -> str:
        """The sentence without the hint."""
        return str(self.args[0])


class ConfigError(SwarmError):
    """The configuration is wrong; the message names file and key."""


class InputError(SwarmError):
    """The user's input is wrong; ``problems`` lists every finding, one line each (file, line, field)."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class UnknownName(InputError):
    """Nothing of that name is there; the hint tells what is."""


class QueueError(SwarmError):
    """The task queue could not do what was asked."""


class TaskInvalid(QueueError):
    """A document is no valid task; the message names the field."""


class DuplicateTask(QueueError):
    """A task with this id exists already."""


class UnknownTask(QueueError):
    """There is no task with this id."""


class UnknownBatch(QueueError):
    """There is no batch with this id."""


class StorageFault(QueueError):
    """The disk is full, read-only or broken; nothing was accepted. Work resumes when it recovers."""


class OddEntry(QueueError, ValueError):
    """Something lies under a name of ours that is not what belongs there; the text says what: ``is a FIFO``."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(what, hint="`swarm queue fsck` names what is odd; `--repair` moves it to corrupt/")
        self.path = path

    @property
    def message(self) -> str:
        """The sentence with the path in it."""
        return f"{self.path}: {self.args[0]}"


class LockHeld(SwarmError):
    """Another process holds this process lock; the message names the holder."""

    exit_code = EXIT_USAGE


class NotRunning(SwarmError):
    """No swarm is running on this queue root."""

    exit_code = EXIT_NOT_RUNNING


class ModelServerError(SwarmError):
    """A model server could not do what was asked."""

    exit_code = EXIT_NOT_RUNNING


class PortTaken(ModelServerError):
    """Somebody else listens where a server is to; the message names who."""


class ModelNotFound(ModelServerError):
    """No server has this model."""

    exit_code = EXIT_USAGE


class ModelFileInvalid(ModelServerError):
    """A file of a model is missing or not what it should be; the message names it."""

    exit_code = EXIT_USAGE


class ModelDoesNotFit(ModelServerError):
    """No worker can serve this model as things are; the message has the numbers."""

    exit_code = EXIT_USAGE


class EngineError(SwarmError):
    """A process could not be started or stopped."""


NAME_CHARS = 500
"""What is longer is no name: comparing megabytes takes minutes."""


def nearest(name: str, known: Iterable[str], number: int = 1, *, cutoff: float = 0.6, prefix: bool = True) -> list[str]:
    """Known names that were probably meant, the likeliest first; without any, those that begin with ``name``."""
    import difflib  # noqa: PLC0415  (only who has made a mistake pays for it)

    if len(name) > NAME_CHARS:
        return []
    names = list(known)
    alike = difflib.get_close_matches(name, names, n=number, cutoff=cutoff)
    if not alike and prefix and len(name) > 2:
        alike = [one for one in names if one.startswith(name)][:number]
    return alike


def name_hint(
    name: str, known: Iterable[str], otherwise: str = "there are:", number: int = 1, *, cutoff: float = 0.6, most: int = 12
) -> str:
    """The hint about an unknown name: ``did you mean worker-1?``, else what names there are."""
    names = list(known)
    meant = nearest(name, names, number, cutoff=cutoff)
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    return f"{otherwise} {', '.join(names[:most]) or 'none yet'}{', …' if len(names) > most else ''}"
