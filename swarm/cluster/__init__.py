"""The Ray driver: finds the cards of a Ray cluster, keeps a relay on each. The only code that imports Ray."""
