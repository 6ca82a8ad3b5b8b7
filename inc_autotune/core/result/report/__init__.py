"""A tuning result, or a comparison, as one HTML page that works offline."""

from inc_autotune.core.result.report.comparison_page import save_comparison
from inc_autotune.core.result.report.page import save_report

__all__ = ["save_comparison", "save_report"]
