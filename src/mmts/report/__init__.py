"""One self-contained page about one or more runs."""

from mmts.report.page import write_report

__all__ = ["write_report"]
