"""A tuning result as one HTML page that works offline."""

from inc_autotune.core.result.report.page import save_report

__all__ = ["save_report"]
