"""Items of the user's loader as calls of the model; metrics over labelled ones; the user's functions.

Imports model and target.
"""
