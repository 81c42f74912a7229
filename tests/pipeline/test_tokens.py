"""The tokens stage on odd corpora: nothing dropped, everything counted, resumable."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hardmask.pipeline.config import CorpusConfig, Run, TokenizerConfig, TokensConfig
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.runfolder import RunFolder
from hardmask.pipeline.shard_folder import HELD_OUT, TRAIN, ShardFolder
from hardmask.pipeline.tokenizer import open_tokenizer
from hardmask.pipeline.tokens import make_tokens


def run_on(*paths, unit_bytes=200_000, held_out=0.05, **corpus):
    return Run(
        quiet=True,
        corpus=CorpusConfig(path=tuple(map(str, paths)), **corpus),
        tokenizer=TokenizerConfig(vocabulary=400, train_bytes=50_000),
        tokens=TokensConfig(sequence_length=32, unit_bytes=unit_bytes, held_out=held_out),
    )


def texts_of(folder):
    """document_id → text, over all units."""
    tokenizer = open_tokenizer(str(folder.tokenizer))
    shards = folder.shards("tokens")
    documents: dict[int, list[int]] = {}
    for split in (TRAIN, HELD_OUT):
        for unit, _ in shards.units(split):
            for rows in shards.read_unit(unit):
                at = 0
                for i in range(len(rows)):
                    document, start = int(rows.document_id[i]), 1
                    ends = rows.ends[at : at + rows.ends_per_row[i]].astype(int)
                    at += rows.ends_per_row[i]
                    for end in [*ends, int(rows.length[i]) - 2]:
                        part = rows.input_ids[i, start : end + 1].astype(int)
                        part = [int(t) for t in part if t != tokenizer.end]
                        if part:
                            documents.setdefault(document, []).extend(part)
                        document, start = document + 1, max(start, end + 1)
    return {number: tokenizer.decode(ids) for number, ids in documents.items()}


def corpus_order(folder):
    """document_id → index in the corpus, from the plan."""
    plan = json.loads((folder.tokens / "plan.json").read_text())
    order = {}
    for unit in plan["units"]:
        listed = [i for first, last in unit["corpus_documents"] for i in range(first, last)]
        order.update({unit["first_document"] + place: i for place, i in enumerate(listed)})
    return order


ODD = [
    "A first document about rivers.",
    "",
    "Text with <mask>, </s> and <s> in it, and <pad><unk> too.",
    "x" * 3_000_000,
    "nul \0 bytes \0 stay",
    "naïve café — 漢字 🎉",
    " leading and trailing space ",
    "lone surrogate \ud800 from JSON",
    *(f"word{i}" for i in range(10_000)),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    (path / "odd.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ODD))
    folder = RunFolder(path / "run")
    make_tokens(run_on(path / "odd.jsonl"), folder)
    return folder


def test_every_document_comes_back(odd):
    found, order = texts_of(odd), corpus_order(odd)
    by_index = {order[number]: text for number, text in found.items()}
    for index, text in enumerate(ODD):
        wanted = text.replace("\ud800", "\ufffd")
        assert by_index.get(index, "") == wanted, index


def test_counts_add_up(odd):
    done = json.loads((odd.tokens / "done.json").read_text())
    assert done["documents"] == len(ODD)
    assert done["empty_documents"] == 1
    assert done["text_bytes"] == sum(len(t.replace("\ud800", "\ufffd").encode()) for t in ODD)
    assert done["replaced_characters"] == 1
    assert done["sequences"] * 32 == done["tokens"] + done["special"] + done["padding"]
    tokenizer = open_tokenizer(str(odd.tokenizer))
    # A document longer than a unit is cut before it is tokenized, which can split a token at the cut.
    whole = sum(len(ids) for ids in tokenizer.encode([t.replace("\ud800", "\ufffd") for t in ODD]))
    assert abs(done["tokens"] - whole) <= 20


def test_no_special_token_comes_out_of_text(odd):
    tokenizer, shards = open_tokenizer(str(odd.tokenizer)), odd.shards("tokens")
    for split in (TRAIN, HELD_OUT):
        for unit, _ in shards.units(split):
            for rows in shards.read_unit(unit):
                inside = rows.input_ids[:, 1:-1]
                assert not np.isin(inside, [tokenizer.begin, tokenizer.mask]).any()


def test_units_hold_whole_documents_up_to_their_size(odd):
    plan = json.loads((odd.tokens / "plan.json").read_text())
    assert all(unit["text_bytes"] <= 200_000 for unit in plan["units"])
    assert plan["cut_documents"] == 1
    held = sum(unit["documents"] for unit in plan["units"] if unit["split"] == HELD_OUT)
    assert 300 < held < 700


def test_finished_work_is_not_touched_again(odd):
    run = run_on(odd.path.parent / "odd.jsonl")
    before = {p: p.stat().st_mtime_ns for p in odd.path.rglob("*")}
    make_tokens(run, odd)
    assert before == {p: p.stat().st_mtime_ns for p in odd.path.rglob("*")}


def test_a_run_cut_anywhere_goes_on_to_the_same_shards(odd, tmp_path):
    folder = RunFolder(tmp_path)
    run = run_on(odd.path.parent / "odd.jsonl")
    make_tokens(run, folder)
    shards, expected = folder.shards("tokens"), odd.shards("tokens")
    # As if killed while three units were missing, one of them between its shard and its record.
    (folder.tokens / "done.json").unlink()
    (folder.tokens / "manifest.json").unlink()
    for unit in (2, 5):
        (shards.place / shards.shard_name(unit)).unlink()
        (shards.commits / f"{unit:05d}.json").unlink()
    (shards.commits / "00003.json").unlink()
    make_tokens(run, folder)
    again = folder.shards("tokens")
    assert again.manifest["units"] == expected.manifest["units"]
    assert {p.name: p.read_bytes() for p in again.shards.iterdir()} == {
        p.name: p.read_bytes() for p in expected.shards.iterdir()
    }


def test_invalid_utf8_is_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good text here\n\nbad \xff\xfe bytes\n\nthe end\n")
    folder = RunFolder(tmp_path / "run")
    make_tokens(run_on(tmp_path / "a.txt"), folder)
    done = json.loads((folder.tokens / "done.json").read_text())
    assert done["documents"] == 3
    assert done["replaced_characters"] == 2
    assert "bad \ufffd\ufffd bytes" in texts_of(folder).values()


def test_other_settings_over_a_finished_folder_are_refused(odd):
    run = run_on(odd.path.parent / "odd.jsonl")
    other = dataclasses.replace(run, tokens=dataclasses.replace(run.tokens, sequence_length=64))
    with pytest.raises(UserError, match=r"tokens\.sequence_length is 32 there and 64 now"):
        make_tokens(other, odd)


def test_a_corpus_that_changed_after_planning_is_refused(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("one document\n\nanother document\n\nthe third of them\n")
    folder = RunFolder(tmp_path / "run")
    make_tokens(run_on(text), folder)
    shards = folder.shards("tokens")
    (folder.tokens / "done.json").unlink()
    for path in (*shards.shards.iterdir(), *shards.commits.iterdir()):
        path.unlink()
    text.write_text("one document\n\nANOTHER document\n\nthe third of them\n")
    with pytest.raises(UserError, match="the corpus has changed"):
        make_tokens(run_on(text), folder)


def test_a_corpus_that_lost_documents_is_refused(tmp_path):
    text = tmp_path / "a.txt"
    documents = ["word " * 300 for _ in range(5)]
    text.write_text("\n\n".join(documents))
    folder = RunFolder(tmp_path / "run")
    make_tokens(run_on(text, unit_bytes=1_600, held_out=0.0), folder)
    (folder.tokens / "done.json").unlink()
    (folder.tokens / "shards" / "shard-00004.arrow").unlink()
    text.write_text("\n\n".join(documents[:3]))
    with pytest.raises(UserError, match="unit 4 is not in it any more"):
        make_tokens(run_on(text, unit_bytes=1_600, held_out=0.0), folder)


def test_a_single_document_is_trained_on_even_where_chance_would_hold_it_out(tmp_path):
    (tmp_path / "a.txt").write_text("the only document there is " * 50)
    folder = RunFolder(tmp_path / "run")
    make_tokens(run_on(tmp_path / "a.txt", held_out=0.999), folder)
    assert folder.shards("tokens").units(TRAIN)
    assert not folder.shards("tokens").units(HELD_OUT)


def test_a_tokenizer_of_other_settings_is_not_taken_over(tmp_path):
    import shutil

    (tmp_path / "a.txt").write_text("some text to read\n\nand some more of it\n")
    folder, run = RunFolder(tmp_path / "run"), run_on(tmp_path / "a.txt")
    make_tokens(run, folder)
    shutil.rmtree(folder.tokens)
    other = dataclasses.replace(run, tokenizer=TokenizerConfig(vocabulary=300, train_bytes=50_000))
    with pytest.raises(UserError, match=r"tokenizer\.vocabulary is 400 there and 300 now"):
        make_tokens(other, folder)
    assert not folder.tokens.exists(), "what is refused leaves no trace"
    (folder.tokenizer / "made_from.json").unlink()
    with pytest.raises(UserError, match="other settings"):
        make_tokens(run, folder)


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path):
    from hardmask.pipeline import shards
    from hardmask.pipeline.packing import pack

    about = {"format": 1, "kind": "tokens", "sequence_length": 8, "vocabulary": 70_000, "special_ids": [0, 1, 2]}
    rows = pack([(np.array([69_999, 65_536, 3]), True)], unit=0, first_document=0, sequence_length=8, begin=0, end=2,
                pad=1, dtype=shards.id_type(70_000))  # fmt: skip
    folder = ShardFolder(tmp_path)
    folder.begin(about)
    folder.write_unit(0, [rows], about, {"split": TRAIN})
    assert next(folder.read_unit(0)).input_ids[0, 1:4].tolist() == [69_999, 65_536, 3]


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="no text"):
        make_tokens(run_on(tmp_path / "a.jsonl"), RunFolder(tmp_path / "run"))
