"""The model server of a card in another machine, asked through the relay there."""
