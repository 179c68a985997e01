"""Results of earlier tasks, filled into a request when its task runs: the task's own body never changes."""

from __future__ import annotations

import msgspec

from swarm.core.claim import Claim
from swarm.core.faults import TaskFault
from swarm.core.task import Task, Trail
from swarm.core.workflow import templating
from swarm.core.workflow.dependency_results import ReadEnded, Results
from swarm.core.workflow.templating import TemplateError
from swarm.runtime.ports import CancelToken, Executor, Progress


class WithResults:
    """Fits the ``Executor`` port: another executor, given requests that are filled in. Safe from several threads."""

    def __init__(self, inner: Executor, read: ReadEnded) -> None:
        self._inner = inner
        self._read = read

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        """Fill in, then run. Raises ``TaskFault``."""
        claim = msgspec.structs.replace(claim, task=self.filled(claim.task))
        return self._inner.run(claim, cancel=cancel, progress=progress)

    def filled(self, task: Task) -> Task:
        """The task with its request filled in; itself when it asks for nothing. Raises ``TaskFault`` (deterministic).

        Only what a task waits for can be asked for; a task that depends on nothing may have such texts in its prompt.
        """
        if not task.depends_on or not any(r.startswith("results.") for r in templating.references(task.request)):
            return task
        earlier = Results(task, self._read)
        try:
            request = templating.fill(task.request, earlier.answer)
        except TemplateError as error:
            raise TaskFault("deterministic", "result_unusable", str(error)) from error
        return msgspec.structs.replace(task, request=request)
