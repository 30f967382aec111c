"""What a model needs and how fast it would be, from its sizes: no weights, no torch."""
