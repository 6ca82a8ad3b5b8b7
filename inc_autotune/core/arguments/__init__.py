"""What the user asked for, checked before any work is done.

Imports quantization, for the names of dtypes, schemes and algorithms.
"""
