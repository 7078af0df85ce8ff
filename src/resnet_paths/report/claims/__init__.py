"""The papers' claims, one module a paper, each claim measured when asked for."""

from .claim import Claim, Measured, Paper
from .evidence import Evidence, Trained
from .reproduce import PAPERS, Reproduction, Verdict, reproduce

__all__ = ["PAPERS", "Claim", "Evidence", "Measured", "Paper", "Reproduction", "Trained", "Verdict", "reproduce"]
