"""One module for each API; each has its endpoints in `ENDPOINTS`."""
