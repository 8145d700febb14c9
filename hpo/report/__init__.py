"""The report on a study: `python -m hpo.report` draws its figures, says what they show, and makes one page of them."""

from hpo.report.command import main, write_report

__all__ = ["main", "write_report"]
