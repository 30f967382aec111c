"""The HTTP server: what other programs send and expect, around one engine thread per model."""
