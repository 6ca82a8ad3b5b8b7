"""The user's model: run without a trace, copied without its memory, and freed of fused fast paths.

Imports target.
"""
