"""Quantised block formats: GGUF's own, in memory as on disk."""
