"""Finding the operators that can be quantized, and what surrounds them.

Imports target and everything below it.
"""
