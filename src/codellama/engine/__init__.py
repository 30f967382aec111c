"""Sequences grown together over one paged cache: schedule, run, sample, advance."""
