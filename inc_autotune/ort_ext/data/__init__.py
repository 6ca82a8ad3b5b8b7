"""Items of the user's loader as inputs of the model; metrics over labelled ones.

Imports model and everything below it.
"""
