"""
How well a model answers: diagnostics whose answers are known, intervals, comparisons, and the public benchmarks.

Names are loaded when they are first used: lmms-eval imports this package to hear of a model, which needs no torch.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


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
    "comparison_card": "comparing",
    "constant_score": "limits",
    "differences_of": "comparing",
    "evaluate": "running",
    "make_clips": "diagnostics",
    "markdown": "comparing",
    "paired_difference": "statistics",
    "parse_answer": "answering",
    "policies_for": "limits",
    "read_report": "running",
    "table_of_differences": "comparing",
    "table_of_results": "comparing",
    "told_of": "comparing",
    "wilson": "statistics",
    "write_clips": "diagnostics",
}

__all__ = [*_MODULE_OF]


if TYPE_CHECKING:
    from .answering import ARMS, Answerer, parse_answer
    from .comparing import (
        aligned,
        check_comparable,
        compare,
        comparison_card,
        differences_of,
        markdown,
        table_of_differences,
        table_of_results,
        told_of,
    )
    from .diagnostics import DIAGNOSTICS, Diagnostic, DiagnosticClip, make_clips, write_clips
    from .limits import ceilings, constant_score, policies_for
    from .running import EvaluationSettings, evaluate, read_report
    from .statistics import PairedDifference, clustered_interval, paired_difference, wilson

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
