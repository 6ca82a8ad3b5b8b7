"""The ONNX format: models whose weights are mapped from files, a view of their graph, and building new ones.

Imports core and graphs only.
"""
