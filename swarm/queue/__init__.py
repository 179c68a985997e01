"""The file queue: the only code that knows the directories under the queue root.

A task is one file and its directory is its state. Doors: ``producer`` (submit), ``claims`` (a worker's view),
``brainqueue`` (the brain's view), ``lookup`` (people's view), ``registry`` and ``lifelock`` (who lives).
"""
