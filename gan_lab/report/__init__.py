"""From finished runs to what a person reads: tables, one HTML page, a W&B report."""

from gan_lab.report.page import write_page

__all__ = ["write_page"]
