"""Fine-tuning, jobs and resume, with a tiny encoder and tokenizer made on the spot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from hardmask.pipeline.config import GlueConfig, Run
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.runfolder import RunFolder
from hardmask.stage2_pretrain import fine_tune as job
from hardmask.stage2_pretrain import glue
from hardmask.stage2_pretrain.glue_tasks import Split, TaskData

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = ["red", "blue", "green", "stone", "river", "cloud", "house", "light", "north", "south", "seven", "glass"]
QUICK = GlueConfig(lr=3e-3, batch_rows=16, dropout=0.0, epochs=4.0, max_tokens=32)


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    named = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    named |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    FastTokenizer(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def save_encoder(folder: Path, seed: int = 0) -> None:
    """A finished MLM run: an encoder of sequence length 64 and its tokenizer."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaForMaskedLM(RobertaConfig(vocab_size=400, max_position_embeddings=66, **sizes)).save_pretrained(folder)
    save_tokenizer(folder)
    (folder / "training").mkdir()
    (folder / "training" / "done.json").write_text(json.dumps({"finished": f"2020-01-01T00:00:0{seed}"}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    save_encoder(run.mlm / "base", seed=0)
    save_tokenizer(run.tokenizer)
    return run


@pytest.fixture(scope="module")
def encoder(folder):
    return str(folder.mlm / "base")


@pytest.fixture(scope="module")
def tokenizer(folder, encoder):
    return glue.load_tokenizer(encoder, folder.tokenizer)


def colour_rows(rows: int, seed: int, pairs: bool = False) -> Split:
    """Label 1 where the text holds the word red, 0 where it holds blue."""
    rng = np.random.default_rng(seed)
    labels = [i % 2 for i in range(rows)]
    texts = []
    for label in labels:
        words = list(rng.choice(WORDS[2:], size=int(rng.integers(3, 9))))
        words.insert(int(rng.integers(len(words))), WORDS[1 - label])
        texts.append(" " + " ".join(words))
    others = [" ".join(rng.choice(WORDS[2:], size=4)) for _ in labels] if pairs else None
    return Split(texts_a=texts, texts_b=others, labels=labels, index=list(range(rows)))


def colours(rows: int = 320) -> TaskData:
    return TaskData(
        name="colours", train=colour_rows(rows, 0), dev={"dev": colour_rows(80, 1)}, labels=("blue", "red"), probe=True
    )


def test_learns_a_learnable_task(encoder, tokenizer, tmp_path, capsys):
    result = glue.fine_tune(encoder, tokenizer, colours(), QUICK, device="cpu", out=tmp_path / "out", quiet=True)
    assert result["metrics"]["dev"]["accuracy"] > 0.9
    assert result["baseline"]["dev"]["accuracy"] == 0.5
    assert (result["rows"], result["steps"]) == ({"train": 320, "dev": 80}, 80)
    assert result["settings"]["lr"] == 3e-3
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "dev.npy"), result["predictions"]["dev"])
    del result["predictions"]
    json.dumps(result, allow_nan=False)
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_same_seed_same_predictions_other_seed_others(encoder, tokenizer):
    brief = dataclasses.replace(QUICK, epochs=0.3, dropout=0.1)

    def scores(seed: int) -> np.ndarray:
        task = stars()
        settings = dataclasses.replace(brief, seed=seed)
        return glue.fine_tune(encoder, tokenizer, task, settings, device="cpu", out=None, quiet=True)["predictions"][
            "dev"
        ]

    np.testing.assert_array_equal(scores(0), scores(0))
    assert not np.array_equal(scores(0), scores(1))


def stars() -> TaskData:
    """How many of the words are red, out of 5."""

    def rows(count: int, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        stars = [i % 6 for i in range(count)]
        texts = [" " + " ".join(rng.permutation(["red"] * n + ["blue"] * (5 - n))) for n in stars]
        return Split(texts_a=texts, texts_b=texts, labels=[float(n) for n in stars], index=list(range(count)))

    return TaskData(
        name="stsb", train=rows(240, 0), dev={"dev": rows(60, 1)}, labels=(), metrics=("spearman", "pearson")
    )


def test_regression_on_pairs(encoder, tokenizer):
    settings = dataclasses.replace(QUICK, epochs=8.0)
    result = glue.fine_tune(encoder, tokenizer, stars(), settings, device="cpu", out=None, quiet=True)
    assert result["predictions"]["dev"].dtype == np.float64
    assert result["metrics"]["dev"]["spearman"] > 0.9
    assert result["metrics"]["dev"]["pearson"] > 0.9
    assert result["baseline"]["dev"] == {"spearman": 0.0, "pearson": 0.0}


def test_classifier_settings(encoder):
    three = TaskData(name="mnli", train=Split(), dev={}, labels=("a", "b", "c"))
    config = job.load_classifier(encoder, three, 0.25).config
    assert (config.num_labels, config.problem_type) == (3, "single_label_classification")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.classifier_dropout) == (0.25,) * 3
    one = job.load_classifier(encoder, stars(), 0.0)
    assert (one.config.num_labels, one.config.problem_type) == (1, "regression")
    pretrained = RobertaForMaskedLM.from_pretrained(encoder).state_dict()
    for name, value in one.state_dict().items():
        if name.startswith("roberta."):
            assert torch.equal(value, pretrained[name]), name


def test_long_texts_are_cut_to_the_positions_there_are(encoder, tokenizer):
    model = job.load_classifier(encoder, colours(), 0.0)
    assert job.longest_input(model) == 64
    long = Split(texts_a=["red " * 500], texts_b=["blue " * 500], labels=[1], index=[0])
    features = job.encode(tokenizer, long, job.longest_input(model), 400)
    assert len(features[0]["input_ids"]) == 64
    assert job.predict(model, tokenizer, features).shape == (1,)
    task = TaskData(name="long", train=long, dev={"dev": long}, labels=("0", "1"))
    settings = dataclasses.replace(QUICK, max_tokens=512, epochs=1.0)
    assert glue.fine_tune(encoder, tokenizer, task, settings, device="cpu", out=None, quiet=True)["max_tokens"] == 64


def test_bert_has_all_its_positions(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=50, max_position_embeddings=40, **sizes)).save_pretrained(tmp_path)
    assert job.longest_input(job.load_classifier(str(tmp_path), colours(), 0.1)) == 40


def test_special_tokens_in_the_text_stay_text(tokenizer):
    split = Split(texts_a=["a <mask> b </s>"], texts_b=["<s>"], index=[0])
    ids = job.encode(tokenizer, split, 64, 400)[0]["input_ids"]
    assert [i for i in ids if i < len(SPECIALS)] == [0, 2, 2, 2]
    assert (ids[0], ids[-1]) == (0, 2)


def test_predictions_are_in_the_order_of_the_rows(encoder, tokenizer):
    model = job.load_classifier(encoder, stars(), 0.0)
    split = colour_rows(150, 3)
    together = job.predict(model, tokenizer, job.encode(tokenizer, split, 64, 400))
    alone = [job.predict(model, tokenizer, job.encode(tokenizer, part, 64, 400))[0] for part in single_rows(split)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def single_rows(split: Split) -> list[Split]:
    return [Split(texts_a=[text], labels=[0], index=[0]) for text in split.texts_a]


def test_subset_is_fixed_and_keeps_rows_together():
    split = colour_rows(100, 0, pairs=True)
    part = job.subset(split, 10)
    assert part.index == job.subset(split, 10).index == sorted(part.index)
    assert [split.texts_a[i] for i in part.index] == part.texts_a
    assert [split.texts_b[i] for i in part.index] == part.texts_b
    assert [split.labels[i] for i in part.index] == part.labels
    assert job.subset(split, 100) is job.subset(split, None) is split


def test_smaller_vocabulary_than_the_tokenizer_is_refused(tokenizer):
    with pytest.raises(UserError, match="entries"):
        job.encode(tokenizer, colour_rows(2, 0), 64, vocabulary=10)


def test_missing_encoder_weights_are_refused(encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(Path(encoder) / "model.safetensors")
    del weights["roberta.encoder.layer.0.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((Path(encoder) / "config.json").read_text())
    with pytest.raises(UserError, match=r"output\.dense\.weight"):
        job.load_classifier(str(tmp_path), colours(), 0.1)


def test_tokenizer_of_the_run_stands_in_where_the_model_has_none(folder, encoder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(encoder) / name).read_bytes())
    fallback = glue.load_tokenizer(str(tmp_path), folder.tokenizer)
    assert fallback("red stone")["input_ids"] == AutoTokenizer.from_pretrained(encoder)("red stone")["input_ids"]


# The stage


def documents() -> list[tuple[str, str]]:
    """Two sources of short documents with distinct sentences."""
    rng = np.random.default_rng(0)

    def sentence(words: list[str]) -> str:
        return " ".join(rng.choice(words, size=9)).capitalize() + "."

    halves = {"first": WORDS[:8], "second": WORDS[4:]}
    return [
        (source, " ".join(sentence(words) for _ in range(6))) for source, words in halves.items() for _ in range(40)
    ]


@pytest.fixture
def run():
    return Run(device="cpu", quiet=True, glue=dataclasses.replace(QUICK, epochs=1.0, probe_rows=100))


def test_stage_writes_results_and_table_and_resumes(run, folder, monkeypatch):
    glue.run_glue(run, folder, documents)
    file = folder.glue / "results.jsonl"
    lines = file.read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["word-order", "next-sentence", "source"]
    table = (folder.glue / "table.md").read_text()
    assert "## Probe tasks (made from the corpus; not GLUE)" in table
    assert "GLUE, dev" not in table
    assert "| base |" in table

    # The last line is cut, as by a kill: that job alone is done again
    file.write_text("\n".join([*lines[:2], lines[2][: len(lines[2]) // 2]]))
    trained = []
    original = glue.fine_tune

    def counted(path, tokenizer, task, settings, **rest):
        trained.append(task.name)
        return original(path, tokenizer, task, settings, **rest)

    monkeypatch.setattr(glue, "fine_tune", counted)
    glue.run_glue(run, folder, documents)
    assert trained == ["source"]
    glue.run_glue(run, folder, documents)
    assert trained == ["source"]
    again = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    assert [r["metrics"] for r in again] == [json.loads(line)["metrics"] for line in lines]
    assert (folder.glue / "table.md").read_text() == table
    assert np.load(folder.glue / "predictions" / again[2]["key"][:16] / "dev.npy").shape == (again[2]["rows"]["dev"],)

    other = dataclasses.replace(run, glue=dataclasses.replace(run.glue, tasks=("source",), seed=1))
    glue.run_glue(other, folder, documents)
    assert trained == ["source", "source"]


def test_key_follows_model_task_tokenizer_and_settings(folder, tokenizer, tmp_path):
    model, task = glue.choose_models(("base",), folder)[0], colours()

    def key(model=model, task=task, settings=QUICK) -> str:
        return glue.job_key(model, glue.task_digest(task), tokenizer, settings)

    save_encoder(tmp_path / "base", seed=5)
    retrained = glue.choose_models((str(tmp_path / "base"),), folder)[0]
    assert retrained.fingerprint != model.fingerprint
    others = [
        key(model=dataclasses.replace(model, fingerprint=retrained.fingerprint)),
        key(task=colours(rows=318)),
        key(settings=dataclasses.replace(QUICK, lr=1e-3)),
        key(settings=dataclasses.replace(QUICK, max_rows=10)),
    ]
    assert len({key(), *others}) == 5
    assert key() == key(settings=dataclasses.replace(QUICK, models=("base",), path="elsewhere"))


def test_models_that_are_not_there(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"finished runs: base"):
        glue.choose_models(("basee",), folder)
    with pytest.raises(UserError, match="no MLM run is finished"):
        glue.choose_models((), RunFolder(tmp_path))
    assert [model.name for model in glue.choose_models((), folder)] == ["base"]


def test_tasks_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="too little text"):
        glue.choose_tasks(GlueConfig(), list)
    with pytest.raises(UserError, match=r"no probe task 'mrpc'.*--glue\.path"):
        glue.choose_tasks(GlueConfig(tasks=("mrpc",), probe_rows=100), documents)
    with pytest.raises(UserError, match="no task has its files"):
        glue.choose_tasks(GlueConfig(path=str(tmp_path)), documents)
    with pytest.raises(UserError, match="ax has nothing to train on"):
        glue.choose_tasks(GlueConfig(path=str(tmp_path), tasks=("ax",)), documents)
    named = glue.choose_tasks(GlueConfig(tasks=("source", "word-order"), probe_rows=100), documents)
    assert [task.name for task in named] == ["source", "word-order"]
