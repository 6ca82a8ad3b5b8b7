"""Trials in an Optuna study, found again after a crash and shared by several processes.

Imports the goal and the verdicts of evaluation, and space.
"""
