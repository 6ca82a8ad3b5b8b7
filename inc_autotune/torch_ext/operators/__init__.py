"""Finding the operators that can be quantized, and what surrounds them, from one watched forward pass.

Imports data and everything below it.
"""
