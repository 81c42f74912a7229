"""Reading GLUE from fixtures in the official layout, from the hub's parquet layout, and from the real files."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from hardmask.pipeline.errors import UserError
from hardmask.stage2_pretrain.glue_tasks import TASKS, Split, available_tasks, read_task

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/glue"

MNLI_TEXTS = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
MNLI_TEXTS += "sentence2_parse\tsentence1\tsentence2"
STSB_TEXTS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
PAIRS_TEST = "index\tsentence1\tsentence2\n0\tA.\tB.\n1\tC.\tD.\n"

# As the official files are: quotes that do not close, a byte-order mark, a missing header, malformed rows
OFFICIAL = {
    "CoLA/train.tsv": 'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tShe them.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tThey left.\n",
    "CoLA/test.tsv": "index\tsentence\n0\tBill floated.\n1\tJo\u2028n sank.\n",
    "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\nall fun \t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\ncharming . \t1\n",
    "SST-2/test.tsv": "index\tsentence\n0\tuneasy mishmash\n",
    "MRPC/train.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t10\t11\tHe won .\tHe has won .\n",
    "MRPC/dev.tsv": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t12\t13\t" It fell .\tIt rose .\n',
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t14\t15\tE .\tF .\n",
    "STS-B/train.tsv": f"{STSB_TEXTS}\tscore\n0\tg\tf\t2012\t1\tn\tn\tA plane.\tAn air plane.\t4.750\n",
    "STS-B/dev.tsv": f"{STSB_TEXTS}\tscore\n0\tg\tf\t2012\t0\tn\tn\tA hat.\tA cat.\t0.600\n",
    "STS-B/test.tsv": f"{STSB_TEXTS}\n0\tg\tf\t2012\t24\tn\tn\tHair.\tHairs.\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tWhy?\tHow?\t0\nbroken\trow\n"
    "7\t3\t4\tWho?\tWho is?\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhat?\tWhat!\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWhen?\tWhere?\n",
    "MNLI/train.tsv": f"{MNLI_TEXTS}\tlabel1\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA man.\tA person.\tneutral\tentailment\n",
    "MNLI/dev_matched.tsv": f"{MNLI_TEXTS}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA dog.\tA cat.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": f"{MNLI_TEXTS}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA bus.\tA car.\te\te\te\te\te\tneutral\n",
    "MNLI/test_matched.tsv": f"{MNLI_TEXTS}\n0\tp\tp\tg\t()\t()\t()\t()\tM.\tN.\n",
    "MNLI/test_mismatched.tsv": f"{MNLI_TEXTS}\n0\tp\tp\tg\t()\t()\t()\t()\tO.\tP.\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n1\tWho?\tShe.\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhat?\tIt.\tentailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tWhere?\tHere.\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\r\n0\tA.\tB.\tentailment\r\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tC.\tD.\tnot_entailment",
    "RTE/test.tsv": PAIRS_TEST,
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tC.\tD.\t0\n",
    "WNLI/test.tsv": PAIRS_TEST,
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tA.\tNot A.\n",
}

# (first train text or texts, train label ids, dev label ids)
EXPECTED = {
    "cola": (['He said "no.'], [1, 0], {"dev": [1]}),
    "sst2": (["hide new secretions "], [0, 1], {"dev": [1]}),
    "mrpc": (["He won .", "He has won ."], [1], {"dev": [0]}),
    "stsb": (["A plane.", "An air plane."], [4.75], {"dev": [0.6]}),
    "qqp": (["Why?", "How?"], [0, 1], {"dev": [1]}),
    "mnli": (["A man.", "A person."], [0], {"dev_matched": [2], "dev_mismatched": [1]}),
    "qnli": (["Who?", "He."], [1, 0], {"dev": [0]}),
    "rte": (["A.", "B."], [0], {"dev": [1]}),
    "wnli": (["A.", "B."], [1], {"dev": [0]}),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*officially")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.fixture
def official(tmp_path):
    return write(tmp_path, OFFICIAL)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_task_from_the_official_files(official, name):
    task, (texts, train_labels, dev_labels) = read_task(name, official), EXPECTED[name]
    assert [task.train.texts_a[0], *(task.train.texts_b or [])[:1]] == texts
    assert task.train.labels == train_labels
    assert {split: rows.labels for split, rows in task.dev.items()} == dev_labels
    assert task.regression == (name == "stsb")
    assert list(task.test) == [split for split in TASKS[name].sizes if split.startswith("test")]
    for rows in (task.train, *task.dev.values(), *task.test.values()):
        assert len(rows.texts_a) == len(rows.index) == len(rows.texts_b or rows.texts_a)
        assert (rows.texts_b is None) == (len(texts) == 1)
    assert all(rows.labels is None for rows in task.test.values())


def test_details_of_the_files(official):
    assert read_task("mrpc", official).dev["dev"].texts_a == ['" It fell .']
    assert read_task("qqp", official).train.dropped == 1
    assert read_task("rte", official).test["test"].index == [0, 1]
    assert read_task("cola", official).test["test"].texts_a == ["Bill floated.", "Jo\u2028n sank."]


def test_diagnostic_has_only_a_test_split(official):
    task = read_task("ax", official)
    assert (len(task.train), task.dev) == (0, {})
    assert task.test["test"].texts_b == ["Not A."]
    assert "ax" not in available_tasks(official)


def test_order_of_columns_does_not_matter(tmp_path):
    rows = "label\tsentence2\tindex\tsentence1\nentailment\tB.\t0\tA.\n"
    test = "sentence2\tindex\tsentence1\nB.\t7\tA.\n"
    task = read_task("rte", write(tmp_path, {"RTE/train.tsv": rows, "RTE/dev.tsv": rows, "RTE/test.tsv": test}))
    assert (task.train.texts_a, task.train.texts_b, task.train.labels) == (["A."], ["B."], [0])
    assert task.test["test"].index == [7]


def test_mrpc_from_the_msr_corpus(tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    files = {
        "MRPC/msr_paraphrase_train.txt": header + "1\t10\t11\tA\tB\n0\t12\t13\tC\tD\n1\t13\t12\tE\tF\n",
        "MRPC/msr_paraphrase_test.txt": header + "1\t20\t21\tG\tH\n",
    }
    write(tmp_path, files)
    assert available_tasks(tmp_path) == []  # nothing says which rows are dev
    write(tmp_path, {"MRPC/dev_ids.tsv": "12\t13\n"})
    assert available_tasks(tmp_path) == ["mrpc"]
    task = read_task("mrpc", tmp_path)
    assert (task.train.texts_a, task.train.texts_b, task.train.labels) == (["A", "E"], ["B", "F"], [1, 1])
    assert (task.dev["dev"].texts_a, task.dev["dev"].labels) == (["C"], [0])
    assert (task.test["test"].texts_b, task.test["test"].labels) == (["H"], None)


def test_available_tasks_have_train_and_dev(official):
    assert available_tasks(official) == [name for name in TASKS if name != "ax"] == available_tasks("hub")
    (official / "QNLI/train.tsv").unlink()
    (official / "MNLI/dev_mismatched.tsv").unlink()
    (official / "RTE/test.tsv").unlink()
    assert set(available_tasks(official)) == set(TASKS) - {"ax", "qnli", "mnli"}
    assert read_task("rte", official).test == {}


def test_row_counts_are_compared_with_the_official_ones(official):
    with pytest.warns(UserWarning, match=r"qqp train of .*: 2 rows after 1 malformed ones .*, officially 363,846"):
        read_task("qqp", official)
    whole = "index\tsentence1\tsentence2\tlabel\n" + "0\tA.\tB.\t1\n" * 635
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_task("wnli", write(official, {"WNLI/train.tsv": whole}))
    assert not [w for w in caught if "wnli train" in str(w.message)]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "RTE/dev.tsv",
            "index\tpremise\tsentence2\tlabel\n",
            r"dev\.tsv: .*'sentence1' among index, premise, sentence2, label",
        ),
        ("RTE/train.tsv", "index\tsentence1\tsentence2\n0\tA\tB\n", "'label' among index, sentence1, sentence2"),
        ("RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tyes\n", r"train\.tsv:2: .*'yes'.*entailment"),
        ("RTE/test.tsv", "index\tsentence1\tsentence2\nx\tA\tB\n", r"test\.tsv:2: the index is 'x'"),
        ("RTE/train.tsv", "", "empty"),
    ],
)
def test_wrong_files_are_refused(official, file, text, message):
    with pytest.raises(UserError, match=message):
        read_task("rte", write(official, {file: text}))


def test_other_mistakes_of_users(official, tmp_path):
    with pytest.raises(UserError, match=r"no GLUE task 'sts-b'.*cola sst2 mrpc stsb"):
        read_task("sts-b", official)
    with pytest.raises(UserError, match="no such folder"):
        read_task("rte", tmp_path / "absent")
    with pytest.raises(UserError, match="no such folder"):
        available_tasks(tmp_path / "absent")
    (official / "RTE/train.tsv").unlink()
    with pytest.raises(UserError, match=r"RTE/train\.tsv: there is no train split"):
        read_task("rte", official)
    (official / "STS-B/train.tsv").write_text(f"{STSB_TEXTS}\tscore\n0\tg\tf\t1\t1\tn\tn\tA\tB\thigh\n")
    with pytest.raises(UserError, match=r"'high', not a number"):
        read_task("stsb", official)
    (official / "SST-2/dev.tsv").write_bytes(b"sentence\tlabel\n\xff\t1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_task("sst2", official)


def hub_columns(name: str, rows: Split, split: str) -> pa.Table:
    """The columns the hub has for the rows of a TSV split."""
    task = TASKS[name]
    texts = [rows.texts_a] if rows.texts_b is None else [rows.texts_a, rows.texts_b]
    labels = rows.labels if rows.labels is not None else [-1] * len(rows)
    columns = dict(zip(task.hub_texts, texts, strict=True))
    kind = pa.int64() if task.labels else pa.float32()
    return pa.table({**columns, "label": pa.array(labels, kind), "idx": pa.array(rows.index, pa.int32())})


def write_hub(folder: Path, official: Path) -> Path:
    for name in TASKS:
        task = read_task(name, official)
        splits = {"train": task.train, **task.dev, **task.test}
        for split in TASKS[name].sizes:
            file = folder / name / f"{split.replace('dev', 'validation')}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(hub_columns(name, splits[split], split), file)
    return folder


def assert_equal_tasks(left, right):
    assert left.train.labels == pytest.approx(right.train.labels, abs=1e-6)
    for a, b in [(left.train, right.train), *((left.test[s], right.test[s]) for s in right.test)]:
        assert (a.texts_a, a.texts_b, a.index) == (b.texts_a, b.texts_b, b.index)
    assert {s: list(map(float, r.labels)) for s, r in left.dev.items()} == {
        s: pytest.approx(r.labels, abs=1e-6) for s, r in right.dev.items()
    }
    assert all(rows.labels is None for rows in left.test.values())
    assert list(left.test) == list(right.test)


def test_hub_layout_gives_the_same_rows(official, tmp_path):
    hub = write_hub(tmp_path / "hub", official)
    assert available_tasks(hub) == available_tasks(official)
    for name in EXPECTED:
        assert_equal_tasks(read_task(name, hub), read_task(name, official))
    assert read_task("ax", hub).test == read_task("ax", official).test


def test_hub_itself_is_asked_for_every_split(official, tmp_path, monkeypatch):
    hub = write_hub(tmp_path / "hub", official)
    asked = []

    def load_dataset(repository: str, config: str, *, split: str) -> datasets.Dataset:
        asked.append((repository, config, split))
        return datasets.Dataset.from_parquet(str(next((hub / config).glob(f"{split}-*"))), cache_dir=tmp_path / "cache")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert_equal_tasks(read_task("mnli", "hub"), read_task("mnli", official))
    splits = ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
    assert asked == [("nyu-mll/glue", "mnli", split) for split in splits]


def test_hub_out_of_reach_is_said(monkeypatch):
    def load_dataset(*_args: str, **_options: str) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"nyu-mll/glue rte: .*offline.*--glue\.path"):
        read_task("rte", "hub")


def test_hub_layout_with_other_columns_is_refused(tmp_path):
    (tmp_path / "rte").mkdir()
    table = pa.table({"premise": ["A"], "hypothesis": ["B"], "label": [0], "idx": [0]})
    parquet.write_table(table, tmp_path / "rte" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="'sentence1' among premise, hypothesis, label, idx"):
        read_task("rte", tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not beside the repository")
def test_real_files_have_the_official_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks = {name: read_task(name, REAL) for name in ("sst2", "mrpc", "stsb", "wnli", "ax")}
    for name, task in tasks.items():
        splits = {"train": task.train, **task.dev, **task.test}
        assert {s: len(splits[s]) for s in TASKS[name].sizes} == TASKS[name].sizes
        assert sum(rows.dropped for rows in splits.values()) == 0
        assert all(rows.index == list(range(len(rows))) for rows in task.test.values())
    assert sum(tasks["mrpc"].train.labels) == 2_474
    assert tasks["stsb"].train.labels[:2] == [5.0, 3.8]
    assert available_tasks(REAL) == ["sst2", "mrpc", "stsb", "wnli"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not beside the repository")
def test_real_mrpc_is_the_same_from_both_sources(tmp_path):
    (tmp_path / "MRPC").mkdir()
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"):
        (tmp_path / "MRPC" / name).write_bytes((REAL / "MRPC" / name).read_bytes())
    assert read_task("mrpc", tmp_path) == read_task("mrpc", REAL)
