"""What runtimes of static graphs share: named inputs, calibration, plans, weights, and what their adaptors have alike.

Imports the core; the extensions for ONNX Runtime and TensorFlow import it, the one for PyTorch does not.
"""
