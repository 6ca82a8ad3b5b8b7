"""From what the user passes to a runnable model, and back to disk.

Imports graph.
"""
