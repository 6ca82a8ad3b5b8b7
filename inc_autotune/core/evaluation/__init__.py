"""The user's evaluation: how it is called, what it may return, and whether that meets the goal.

Imports arguments and data.
"""
