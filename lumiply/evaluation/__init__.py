"""Figures for results: of a folder of relit photos, and of the model on rendered rooms (`docs/evaluation.md`).

Needs scikit-image; charts need matplotlib, LPIPS needs the package `lpips` and its weights.
"""

from lumiply.evaluation.charts import bar_chart, worst_sheet, write_charts
from lumiply.evaluation.folder import FolderReport, Problem, Scene, Score, evaluate_folder
from lumiply.evaluation.perceptual import Lpips, find_lpips
from lumiply.evaluation.report import group, table, worst, write_tables

__all__ = [
    "FolderReport",
    "Lpips",
    "Problem",
    "Scene",
    "Score",
    "bar_chart",
    "evaluate_folder",
    "find_lpips",
    "group",
    "table",
    "worst",
    "worst_sheet",
    "write_charts",
    "write_tables",
]
