"""Seconds and bytes: of whole models, and of single units.

Imports emission and everything below it.
"""
