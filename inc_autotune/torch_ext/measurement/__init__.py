"""Seconds and bytes, of whole models and of single units; sensitivity from gradients.

Imports modules and everything below it.
"""
