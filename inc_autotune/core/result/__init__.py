"""What the user gets back: the best trial with its reasons, a recipe, and a report.

Imports search and everything below it.
"""
