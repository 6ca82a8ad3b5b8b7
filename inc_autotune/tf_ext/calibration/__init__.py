"""One pass over the data, and from it the ranges and scales of one configuration: the plan.

Imports operators and everything below it.
"""
