"""Engines that a `worker` process can hold; each file runs by its path."""
