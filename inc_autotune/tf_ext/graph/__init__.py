"""GraphDefs whose weights lie beside them as arrays, a view of such a graph, and building new ones.

Imports core and graphs only.
"""
