"""
How well a model answers: diagnostics whose answers are known, intervals, comparisons, and the public benchmarks.

Names are loaded when they are first used: lmms-eval imports this package to hear of a model, which needs no torch.
"""

import importlib
from typing import Any


_MODULE_OF = {
    "ARMS": "answering",
    "Answerer": "answering",
    "DIAGNOSTICS": "diagnostics",
    "Diagnostic": "diagnostics",
    "DiagnosticClip": "diagnostics",
    "EvaluationSettings": "running",
    "PairedDifference": "statistics",
    "aligned": "comparing",
    "ceilings": "limits",
    "check_comparable": "comparing",
    "clustered_interval": "statistics",
    "compare": "comparing",
    "constant_score": "limits",
    "evaluate": "running",
    "make_clips": "diagnostics",
    "markdown": "comparing",
    "paired_difference": "statistics",
    "parse_answer": "answering",
    "policies_for": "limits",
    "read_report": "running",
    "table_of_differences": "comparing",
    "table_of_results": "comparing",
    "wilson": "statistics",
    "write_clips": "diagnostics",
}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
