"""What graphs are written for: the version of TensorFlow, the form of a graph, and the switches that the user sets.

Imports graph.
"""
