"""What graphs are written for: execution providers, their forms of a graph, this processor, and the user's switches.

Imports graph.
"""
