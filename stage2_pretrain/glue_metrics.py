"""GLUE's metrics, what a model that has learned nothing would get, and the files and table of results.

Where a metric is undefined, as for constant predictions, it is 0: a collapsed model is no better than chance, and a NaN
would spoil means and comparisons.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardmask.pipeline.json_lines import read_lines
from hardmask.pipeline.publish import write_text
from hardmask.stage2_pretrain.glue_tasks import TASKS, TaskData

Values = Sequence[float] | np.ndarray
"""[rows] class ids or, of a regression, scores."""
Result = dict[str, Any]
"""A finished job: plain JSON values, one line of results.jsonl."""
Column = tuple[str, str]
"""(task, dev split)."""

AVERAGED = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
"""Tasks of GLUE's usual average: nine values, as MNLI matched and mismatched count apart and WNLI does not."""
SUFFIXES = {"dev_matched": "-m", "dev_mismatched": "-mm"}
BASELINE = "constant prediction"
"""Row of the table: the training rows' majority class, or mean."""


def accuracy(labels: Values, predictions: Values) -> float:
    """Share of equal class ids."""
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


def f1(labels: Values, predictions: Values) -> float:
    """F1 of class 1; 0 where neither labels nor predictions hold it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))


def matthews(labels: Values, predictions: Values) -> float:
    """Matthews correlation of class ids, for any number of classes."""
    from sklearn.metrics import matthews_corrcoef

    if min(len(np.unique(labels)), len(np.unique(predictions))) < 2:
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(labels: Values, predictions: Values) -> float:
    """Pearson correlation of scores."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, labels, predictions)


def spearman(labels: Values, predictions: Values) -> float:
    """Spearman correlation of scores, ties at their average rank."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, labels, predictions)


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def evaluate(metrics: Sequence[str], labels: Values, predictions: Values) -> dict[str, float]:
    """The named metrics (keys of `METRICS`) of one split, each in [-1, 1]. Labels and predictions: [rows], rows ≥ 1."""
    return {name: METRICS[name](labels, predictions) for name in metrics}


def constant_baseline(task: TaskData) -> dict[str, dict[str, float]]:
    """Metrics on every dev split of always predicting the training rows' majority class or, of a regression, mean."""
    assert task.train.labels is not None
    train = np.asarray(task.train.labels)
    constant = float(train.mean()) if task.regression else int(np.bincount(train).argmax())
    return {
        name: evaluate(task.metrics, split.labels, np.full(len(split), constant))
        for name, split in task.dev.items()
        if split.labels is not None
    }


def _correlation(function: Callable[..., tuple[float, float]], labels: Values, predictions: Values) -> float:
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if min(np.ptp(x), np.ptp(y)) == 0 or not np.isfinite(y).all():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant input
        value = float(function(x, y)[0])
    return value if math.isfinite(value) else 0.0


# Results


def read_results(file: Path) -> dict[str, Result]:
    """Finished jobs by key; a line cut short by a kill counts as not finished."""
    return {result["key"]: result for result in read_lines(file)}


def write_table(results: Sequence[Result], folder: Path) -> None:
    """Write `table.md`: models by tasks, shown metric × 100, with probe tasks in a table of their own.

    Of several results of one model and task the last is shown.
    """
    titles = {
        False: "GLUE, dev splits",
        True: "Probe tasks (made from the corpus; not GLUE)",
    }
    tables = [
        _table(title, [result for result in results if result["probe"] == probe])
        for probe, title in titles.items()
        if any(result["probe"] == probe for result in results)
    ]
    write_text(folder / "table.md", "\n".join(tables))


def _table(title: str, results: Sequence[Result]) -> str:
    rows: dict[str, dict[Column, float]] = {BASELINE: {}}
    shown = {}
    for result in results:
        for split, metrics in result["metrics"].items():
            column = (result["task"], split)
            shown[column] = result["shown"]
            rows[BASELINE][column] = result["baseline"][split][result["shown"]]
            rows.setdefault(result["model"], {})[column] = metrics[result["shown"]]
    order = [*TASKS, *(task for task, _ in shown)]
    columns = sorted(shown, key=lambda column: (order.index(column[0]), column[1]))
    mean, averaged = _mean_column(columns)
    heads = ["model", *(f"{_name(column)} ({shown[column]})" for column in columns), *mean]
    lines = [f"## {title}", "", _line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    for model, scores in rows.items():
        cells = [_percent(scores.get(column)) for column in columns]
        if mean:
            whole = all(column in scores for column in averaged)
            cells.append(_percent(sum(scores[c] for c in averaged) / len(averaged) if whole else None))
        lines.append(_line([model, *cells]))
    return "\n".join([*lines, "", *_notes(results), ""])


def _mean_column(columns: Sequence[Column]) -> tuple[list[str], list[Column]]:
    """Title of the mean column (none of a single column), and what it is the mean of."""
    nine = [column for column in columns if column[0] in AVERAGED]
    if len(nine) == 9:
        return ["Avg (nine values, without WNLI)"], nine
    return [f"mean of these {len(columns)}"] if len(columns) > 1 else [], list(columns)


def _notes(results: Sequence[Result]) -> list[str]:
    """What was done, one line for each setting found: the reader must not take a part of the rows for all."""
    lines = ["All metrics × 100, one seed each, of the model after the last step."]
    for settings in {json.dumps(result["settings"]): result["settings"] for result in results}.values():
        rows = settings["max_rows"]
        limit = "all training rows" if rows is None else f"at most {rows:,} training rows a task (max_rows)"
        others = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "max_rows")
        lines.append(f"Fine-tuned on {limit}; {others}.")
    fields = sorted({name for result in results for name in result["dropout_fields"]})
    lines.append(f"Dropout applies to {', '.join(fields) or 'nothing, as the models have no such field'}.")
    return [f"- {line}" for line in lines]


def _name(column: Column) -> str:
    task, split = column
    return (TASKS[task].folder if task in TASKS else task) + SUFFIXES.get(split, "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
