"""Which configurations there are: the capability YAML, narrowed by the user's rules, as units and assignments.

Imports arguments and quantization.
"""
