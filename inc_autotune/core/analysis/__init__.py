"""Measurements on models without the user's evaluation: output errors, sensitivity, alphas, speed.

Imports the adaptor's interface and everything below it.
"""
