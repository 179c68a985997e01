"""The file queue: the only code that knows the directories under the queue root.

A task is one file and its directory is its state. Doors: ``file_queue`` for commands, ``worker.worker_queue`` and
``brain.brain_queue`` for the processes, ``stores.registry`` and ``storage.locks`` for who lives.
"""
