"""The collator: masks of mask_batch as labels, the same after a stop, with and without workers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import synthetic
import torch

from hardmask.pipeline.errors import UserError
from hardmask.pipeline.masking_config import MaskingConfig
from hardmask.stage2_pretrain.collator import IGNORED, MaskingCollator
from hardmask.stage2_pretrain.masking import Vocabulary, mask_batch

VOCABULARY = Vocabulary(size=synthetic.VOCABULARY, mask_id=synthetic.VOCABULARY - 1, special_ids=(0, 1, 2, 3))
CONFIG = MaskingConfig(alpha=0.005)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    import pyarrow.dataset as ds

    folder = tmp_path_factory.mktemp("rows") / "hardness"
    synthetic.write_folder(folder, "hardness", units=1, documents=30)
    return ds.dataset(folder / "shards", format="arrow").to_table().to_pylist()


def test_labels_are_the_masks_of_mask_batch(rows):
    collator = MaskingCollator(CONFIG, VOCABULARY)
    collator.epoch = 3
    batch = collator(rows[:8])
    columns = [torch.tensor([row[name] for row in rows[:8]])
               for name in ("input_ids", "perplexity_forward", "perplexity_backward", "sequence_id")]  # fmt: skip
    masked = mask_batch(*columns, 3, config=CONFIG, vocabulary=VOCABULARY)
    assert torch.equal(batch["input_ids"], masked.input_ids)
    expected = {(row, int(masked.positions[row, slot]), int(masked.targets[row, slot]))
                for row, slot in masked.weights.nonzero().tolist()}  # fmt: skip
    found = {(row, at, int(batch["labels"][row, at])) for row, at in (batch["labels"] != IGNORED).nonzero().tolist()}
    assert found == expected
    assert found
    assert batch["attention_mask"].sum(1).tolist() == [row["length"] for row in rows[:8]]
    collator.epoch = 4
    assert not torch.equal(batch["labels"], collator(rows[:8])["labels"])


def test_rows_may_be_of_numpy_and_masked_in_several_ways(rows):
    collator = MaskingCollator(dataclasses.replace(CONFIG, preset="fully-explored", groups=3), VOCABULARY)
    arrays = [{name: np.asarray(value) for name, value in row.items()} for row in rows[:4]]
    batch = collator(arrays)
    assert batch["labels"].shape == batch["attention_mask"].shape == (12, synthetic.LENGTH)
    assert torch.equal(batch["labels"], collator(rows[:4])["labels"])


def test_what_a_collator_cannot_know_is_refused(rows):
    scheduled = MaskingConfig(schedule="linear", alpha=0.1, alpha_end=0.0)
    for config in (MaskingConfig(preset="adaptive"), scheduled, MaskingConfig(preset="mixture", mixture_by="batch")):
        with pytest.raises(UserError, match="need"):
            MaskingCollator(config, VOCABULARY)
    bare = [{"input_ids": row["input_ids"]} for row in rows[:2]]
    with pytest.raises(UserError, match="remove_unused_columns"):
        MaskingCollator(CONFIG, VOCABULARY)(bare)


class Recorder(torch.nn.Module):
    """Keeps the batches it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, input_ids, attention_mask, labels):
        self.seen.append((input_ids.clone(), labels.clone()))
        return {"loss": self.weight.sum() * 1.0}


def trained(rows, out, workers, *, stop=None, resume=False):
    """The batches of two epochs of five steps, up to a stop, and behind it."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_about):
            control.should_training_stop = control.should_save = state.global_step == stop

    arguments = TrainingArguments(
        output_dir=out, per_device_train_batch_size=4, num_train_epochs=2, save_strategy="no", report_to="none",
        remove_unused_columns=False, dataloader_num_workers=workers, disable_tqdm=True, use_cpu=True, seed=0,
        dataloader_pin_memory=False, dataloader_persistent_workers=workers > 0, logging_strategy="no",
    )  # fmt: skip
    collator, model = MaskingCollator(CONFIG, VOCABULARY), Recorder()
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator,
                      callbacks=[collator.callback(), Stop()])  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return model.seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_trainer_sees_the_masks_of_an_undisturbed_one(rows, tmp_path, workers):
    some = rows[:20]
    whole = trained(some, tmp_path / "whole", workers)
    assert len(whole) == 10
    before = trained(some, tmp_path / "parts", workers, stop=7)  # in the second epoch
    after = trained(some, tmp_path / "parts", workers, resume=True)
    assert [len(before), len(after)] == [7, 3]
    for number, (expected, found) in enumerate(zip(whole, before + after, strict=True)):
        assert torch.equal(expected[0], found[0]), number
        assert torch.equal(expected[1], found[1]), number
    collator = MaskingCollator(CONFIG, VOCABULARY)
    for collator.epoch, part in enumerate((whole[:5], whole[5:])):
        found = sorted(labels.tolist() for _, batch in part for labels in batch)
        assert found == sorted(collator(some)["labels"].tolist()), "every row once, under the masks of its epoch"
    assert found != sorted(labels.tolist() for _, batch in whole[:5] for labels in batch)
