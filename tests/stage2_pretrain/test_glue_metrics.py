"""GLUE's metrics against their definitions, constant predictions, and the table of results."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardmask.pipeline.json_lines import append_line
from hardmask.stage2_pretrain.glue_metrics import (
    METRICS,
    constant_baseline,
    evaluate,
    read_results,
    write_table,
)
from hardmask.stage2_pretrain.glue_tasks import TASKS, Split, TaskData

LABELS = [0, 1, 1, 0, 1, 1]
GUESSES = [0, 1, 0, 1, 1, 1]  # 3 true positives, 1 true negative, 1 false positive, 1 false negative


def test_values_by_hand():
    assert METRICS["accuracy"](LABELS, GUESSES) == pytest.approx(4 / 6)
    assert METRICS["f1"](LABELS, GUESSES) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert METRICS["matthews"](LABELS, GUESSES) == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))
    assert METRICS["pearson"]([1.0, 2.0, 3.0], [1.0, 2.0, 9.0]) == pytest.approx(8 / math.sqrt(2 * 38))
    assert METRICS["spearman"]([1.0, 2.0, 3.0], [1.0, 2.0, 9.0]) == pytest.approx(1.0)
    assert METRICS["spearman"]([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_f1_is_of_class_one_and_not_symmetric():
    assert METRICS["f1"]([1, 1, 1, 0], [1, 1, 1, 1]) != METRICS["f1"]([0, 0, 0, 1], [0, 0, 0, 0])
    assert METRICS["f1"]([0, 0, 0, 1], [0, 0, 0, 0]) == 0


@given(
    name=st.sampled_from(sorted(METRICS)),
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    constant=st.integers(0, 1),
)
def test_constant_predictions_are_never_nan(name, labels, constant):
    value = METRICS[name](labels, [constant] * len(labels))
    assert math.isfinite(value)
    if name in ("matthews", "pearson", "spearman"):
        assert value == 0
    assert math.isfinite(METRICS[name]([constant] * len(labels), labels))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_undefined_correlations_are_zero(name):
    assert METRICS[name]([1.0, 2.0, 3.0], [math.nan, 1.0, 2.0]) == 0
    assert METRICS[name]([1.0, 2.0, 3.0], [math.inf, 1.0, 2.0]) == 0
    assert METRICS[name]([5.0], [1.0]) == 0


def test_every_task_has_known_metrics():
    for task in TASKS.values():
        assert set(task.metrics) <= set(METRICS)
    assert {name: task.metrics[0] for name, task in TASKS.items() if task.metrics[0] != "accuracy"} == {
        "cola": "matthews",
        "stsb": "spearman",
        "ax": "matthews",
    }


def split(labels) -> Split:
    return Split(texts_a=[""] * len(labels), labels=labels, index=list(range(len(labels))))


def test_baseline_is_the_majority_of_the_training_rows():
    task = TaskData(
        name="mrpc",
        train=split([1, 1, 0]),
        dev={"dev": split([0, 0, 0, 1])},
        labels=("0", "1"),
        metrics=("accuracy", "f1"),
    )
    assert constant_baseline(task) == {"dev": {"accuracy": 0.25, "f1": pytest.approx(0.4)}}
    scores = TaskData(
        name="stsb", train=split([1.0, 2.0]), dev={"dev": split([0.5, 3.0])}, labels=(), metrics=("spearman", "pearson")
    )
    assert constant_baseline(scores) == {"dev": {"spearman": 0.0, "pearson": 0.0}}


def result(task: str, score: float, *, model: str = "base", splits=("dev",), probe: bool = False, **settings) -> dict:
    shown = TASKS[task].metrics[0] if task in TASKS else "accuracy"
    return {
        "key": f"{model}-{task}",
        "model": model,
        "task": task,
        "probe": probe,
        "shown": shown,
        "metrics": {name: {shown: score + i / 100, "f1": 0.11} for i, name in enumerate(splits)},
        "baseline": {name: {shown: 0.5, "f1": 0.22} for name in splits},
        "settings": {"lr": 1e-5, "max_rows": None, "seed": 0} | settings,
        "dropout_fields": ["hidden_dropout_prob"],
    }


MNLI = ("dev_matched", "dev_mismatched")
NINE = [result(task, 0.8, splits=MNLI if task == "mnli" else ("dev",)) for task in TASKS if task not in ("wnli", "ax")]


def table(results, folder) -> list[str]:
    write_table(results, folder)
    return (folder / "table.md").read_text().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_of_some_tasks_claims_no_average(tmp_path):
    rows = [result("stsb", 0.7), result("mrpc", 0.8), result("mrpc", 0.85, model="other")]
    lines = table(rows, tmp_path)
    assert lines[0] == "## GLUE, dev splits"
    assert cells(lines[2]) == ["model", "MRPC (accuracy)", "STS-B (spearman)", "mean of these 2"]
    assert cells(lines[4]) == ["constant prediction", "50.0", "50.0", "50.0"]
    assert cells(lines[5]) == ["base", "80.0", "70.0", "75.0"]
    assert cells(lines[6]) == ["other", "85.0", "–", "–"]
    assert "Avg" not in "\n".join(lines)
    assert "all training rows" in "\n".join(lines)


def test_average_needs_all_nine_values_and_leaves_wnli_out(tmp_path):
    lines = table([*NINE, result("wnli", 0.1)], tmp_path)
    heads = cells(lines[2])
    assert heads[6:8] == ["MNLI-m (accuracy)", "MNLI-mm (accuracy)"]
    assert heads[-1] == "Avg (nine values, without WNLI)"
    assert cells(lines[5])[-1] == f"{100 * (8 * 0.8 + 0.81) / 9:.1f}"
    for absent in range(len(NINE)):
        assert "Avg" not in "\n".join(table(NINE[:absent] + NINE[absent + 1 :], tmp_path))


def test_limited_rows_and_differing_settings_are_said(tmp_path):
    lines = table([result("rte", 0.6, max_rows=1_500), result("mrpc", 0.6, max_rows=1_500, lr=1e-3)], tmp_path)
    said = [line for line in lines if "at most 1,500 training rows a task" in line]
    assert len(said) == 2
    assert "lr 1e-05" in said[0]
    assert "lr 0.001" in said[1]


def test_probes_stand_in_a_table_of_their_own(tmp_path):
    lines = table([result("word-order", 0.9, probe=True), result("rte", 0.6)], tmp_path)
    at = lines.index("## Probe tasks (made from the corpus; not GLUE)")
    assert cells(lines[at + 2]) == ["model", "word-order (accuracy)"]
    assert "word-order" not in "\n".join(lines[:at])
    assert "GLUE, dev" not in "\n".join(table([result("word-order", 0.9, probe=True)], tmp_path))


def test_results_survive_a_cut_line(tmp_path):
    file = tmp_path / "glue" / "results.jsonl"
    assert read_results(file) == {}
    first, second = result("rte", 0.6), result("mrpc", 0.7)
    append_line(file, first)
    append_line(file, second)
    assert read_results(file) == {"base-rte": first, "base-mrpc": second}
    file.write_text(file.read_text()[:-20])
    assert read_results(file) == {"base-rte": first}
    append_line(file, second)
    assert read_results(file) == {"base-rte": first, "base-mrpc": second}
    assert len(file.read_text().splitlines()) == 2


def test_results_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "results.jsonl", {"key": "a", "loss": math.nan})
    json.dumps(evaluate(("matthews", "accuracy"), np.array([0, 1]), np.array([1, 1])), allow_nan=False)
