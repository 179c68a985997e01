"""The relay: lends the cards of this machine to a queue on another one, over HTTP and with a token."""
