"""Which model family an adapter is made for, told from keys and shapes, with a probability."""
