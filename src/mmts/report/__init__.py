"""One self-contained page about one or more runs."""

from mmts.report.page import write_report as write_report
