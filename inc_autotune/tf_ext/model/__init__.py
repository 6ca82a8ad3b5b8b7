"""From what the user passes to a runnable model, and back to disk.

Imports target and graph.
"""
