"""Arithmetic on arrays: integer types and rounding, ranges from statistics, SmoothQuant's scales and alphas.

Imports only the words at the root of the core.
"""
