"""The swarm's own API: what the commands show, as documents and events, and a few verbs."""
