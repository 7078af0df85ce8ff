"""The common base of all results: named arrays with declared dimensions, as tables, data sets, files and pictures."""

from .display import Shown, drawn, show_with
from .file_format import load_record
from .record import Record, as_array, labelled_arrays

__all__ = ["Record", "Shown", "as_array", "drawn", "labelled_arrays", "load_record", "show_with"]
