"""Cards of other machines: what a relay and a worker say to each other, and the records of nodes."""
