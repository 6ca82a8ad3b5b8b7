"""The graph format itself, and editing it.

Imports core and graphs only.
"""
