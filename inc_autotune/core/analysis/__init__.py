"""What is found out about a model without an evaluation: output errors, sensitivity, alphas, speed.

Imports the adaptor's interface and everything below it.
"""
