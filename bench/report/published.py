"""PairComp's published table: 19 models, by the judge InternVL2.5-26B (paper, table 1)."""

import csv
from functools import cache
from pathlib import Path

SOURCE = "arXiv 2506.05501, as judged by InternVL2.5-26B with the authors' own sampling"
_FILE = Path(__file__).parent / "published.csv"
_COLUMNS = {  # names of categories, in the file of cases and in the table
    "Overall appearance": "overall",
    "Color": "color",
    "Counting": "counting",
    "Position": "position",
    "Style & Tone": "style_tone",
    "Text": "text",
    "Average": "average",
}


@cache
def published() -> dict[str, dict[str, tuple[float, float]]]:
    """s_a and s_g by model and category, 0 to 1; the categories include "Average"."""
    with open(_FILE, newline="") as file:
        return {
            row["model"]: {
                category: (float(row[f"{column}_sa"]) / 100, float(row[f"{column}_sg"]) / 100)
                for category, column in _COLUMNS.items()
            }
            for row in csv.DictReader(file)
        }


def has_published_categories(categories: set[str]) -> bool:
    """Whether a run's categories are those of the published table."""
    return categories | {"Average"} == set(_COLUMNS)
