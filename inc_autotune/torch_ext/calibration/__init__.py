"""One pass over the data, and from it the ranges and scales of the operators of one configuration.

Imports operators and everything below it.
"""
