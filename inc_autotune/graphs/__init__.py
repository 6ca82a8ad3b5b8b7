"""What runtimes of static graphs share: named inputs, their digests, and padding.

Imports the core; the extensions for ONNX Runtime and TensorFlow import it, the one for PyTorch does not.
"""
