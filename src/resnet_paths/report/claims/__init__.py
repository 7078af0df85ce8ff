"""The papers' claims: one module per paper, each claim measured on request."""

from .claim import Claim, Measured, Paper
from .evidence import Evidence, Trained
from .reproduction import PAPERS, Reproduction, Verdict, reproduce

__all__ = ["PAPERS", "Claim", "Evidence", "Measured", "Paper", "Reproduction", "Trained", "Verdict", "reproduce"]
