"""The queue as a worker uses it: claim, finish, requeue."""
