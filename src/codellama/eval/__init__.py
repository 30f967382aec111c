"""Evaluation: the published protocols of the family, run on any model, with a report.

A `Suite` turns rows of data into problems, and a reply into a program to run or numbers to average;
a `Source` is what replies; `run.evaluate` brings the two together; `report` shows what came out.
"""
