"""One command, one report; and tests of the papers' claims."""

from .budget import Spent
from .comparison_page import write_comparison
from .effort import Effort
from .explorer import explorer_data
from .page import json_schema
from .section import Headline, Part, Picture, Section, Table
from .stage import NotApplicableError, Stage
from .stages import STAGES
from .subject import Expressions, Subject
from .widget import explore_widget
from .write import Outcome, Report, write_report

__all__ = [
    "STAGES",
    "Effort",
    "Expressions",
    "Headline",
    "NotApplicableError",
    "Outcome",
    "Part",
    "Picture",
    "Report",
    "Section",
    "Spent",
    "Stage",
    "Subject",
    "Table",
    "explore_widget",
    "explorer_data",
    "json_schema",
    "write_comparison",
    "write_report",
]
