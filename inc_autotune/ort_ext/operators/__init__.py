"""Finding the operators that can be quantized, and what surrounds them.

Imports data and everything below it.
"""
