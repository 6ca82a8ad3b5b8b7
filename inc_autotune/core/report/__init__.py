"""A tuning result as one HTML page that works offline."""

from inc_autotune.core.report.page import save_report

__all__ = ["save_report"]
