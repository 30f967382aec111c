"""What a model is: its sizes, the family's facts, and the PyTorch transformer."""
