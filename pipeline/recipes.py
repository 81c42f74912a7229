"""Named runs: each recipe is a function that returns all settings of a run and the MLM runs it consists of.

"(paper)" and "(ours)" are said where a recipe departs from the defaults in `config.py`, which say it of themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardmask.pipeline.config import (
    AlmConfig,
    CorpusConfig,
    GlueConfig,
    MaskingConfig,
    MlmConfig,
    MlmRun,
    Run,
    TokenizerConfig,
    TokensConfig,
)
from hardmask.pipeline.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Settings, and the MLM runs in the order they are trained."""

    run: Run
    mlm_runs: tuple[MlmRun, ...]


def _random_mask_runs(alphas: tuple[float, ...], init: str = "mlm/base") -> tuple[MlmRun, ...]:
    """Continued pre-training: the random control and one run an α, all else equal."""
    hard = (
        MlmRun(name=f"hardness-{alpha:g}", init=init, masking={"preset": "hardness", "alpha": alpha})
        for alpha in alphas
    )
    return (MlmRun(name="random", init=init, masking={"preset": "random"}), *hard)


def demo() -> Recipe:
    """Everything on the embedded corpus in minutes on two CPU cores; every size and budget is ours."""
    run = Run(
        tokenizer=TokenizerConfig(vocabulary=4_096),
        tokens=TokensConfig(sequence_length=128, unit_bytes=500_000, held_out=0.05),
        alm=AlmConfig(
            layers=4,
            width=128,
            heads=4,
            ffn=512,
            tokens=600_000,
            batch_sequences=16,
            lr=2e-3,
            dropout=0.0,
            eval_sequences=128,
            eval_steps=50,
        ),
        mlm=MlmConfig(
            layers=2,
            width=128,
            heads=4,
            ffn=512,
            steps=400,
            batch_sequences=16,
            lr=1e-3,
            dropout=0.0,
            eval_sequences=256,
            eval_steps=100,
            seed=1,
            order_seed=1,
        ),
        masking=MaskingConfig(seed=1),
        glue=GlueConfig(
            lr=(3e-4, 1e-3),
            batch_rows=(32,),
            dropout=(0.0,),
            seeds=(0,),
            epochs=3.0,
            max_rows=10_000,
            max_tokens=128,
        ),
    )
    base = MlmRun(
        name="base",
        init="scratch",
        mlm={"steps": 1_000, "lr": 3e-3, "seed": 0, "order_seed": 0},
        masking={"preset": "random", "seed": 0},
    )
    return Recipe(run, (base, *_random_mask_runs((0.005,))))


def small() -> Recipe:
    """One GPU, tens of millions of tokens: the paper's ALM, a six-layer encoder from scratch, RoBERTa's BPE.

    The corpus is Simple English Wikipedia; sizes and budgets besides the ALM's are ours.
    """
    run = Run(
        corpus=CorpusConfig(path=("hub:wikimedia/wikipedia?config=20231101.simple",)),
        tokenizer=TokenizerConfig(path="FacebookAI/roberta-base"),
        alm=AlmConfig(batch_sequences=256, lr=1e-3, eval_steps=200),
        mlm=MlmConfig(
            layers=6,
            width=512,
            heads=8,
            ffn=2_048,
            epochs=4.0,
            batch_sequences=256,
            lr=1e-4,
            eval_steps=200,
            seed=1,
            order_seed=1,
        ),
        masking=MaskingConfig(seed=1),
        glue=GlueConfig(lr=(2e-5, 5e-5, 1e-4), batch_rows=(32,), dropout=(0.1,), seeds=(0, 1, 2)),
    )
    base = MlmRun(
        name="base",
        init="scratch",
        mlm={"epochs": 20.0, "lr": 1e-3, "seed": 0, "order_seed": 0},
        masking={"preset": "random", "seed": 0},
    )
    return Recipe(run, (base, *_random_mask_runs((0.0, 0.001, 0.005))))


PAPER_CORPUS = (
    "hub:wikimedia/wikipedia?config=20231101.en",
    "hub:bookcorpus/bookcorpus?revision=refs/convert/parquet",
    "hub:vblagoje/cc_news",
    "hub:Skylion007/openwebtext?revision=refs/convert/parquet",
    "hub:spacemanidol/cc-stories?revision=refs/convert/parquet",
)
"""Wikipedia, BookCorpus, CC-News, OpenWebText and Stories (paper), as they are found on the hub (ours)."""


def _paper(name: str) -> Recipe:
    run = Run(
        corpus=CorpusConfig(path=PAPER_CORPUS, name="wikipedia+bookcorpus+cc-news+openwebtext+stories"),
        tokenizer=TokenizerConfig(path=name),
        mlm=MlmConfig(init=name, seed=1, order_seed=1),
        masking=MaskingConfig(seed=1),
    )
    return Recipe(run, _random_mask_runs((0.0, 0.001, 0.005), init=name))


def roberta_base() -> Recipe:
    """The paper's run from roberta-base: five sources, the 6 × 512 ALM, 6 epochs at 1e-6, α 0, 0.001 and 0.005."""
    return _paper("FacebookAI/roberta-base")


def roberta_large() -> Recipe:
    """The same from roberta-large."""
    return _paper("FacebookAI/roberta-large")


RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "small": small,
    "roberta-base": roberta_base,
    "roberta-large": roberta_large,
}


def recipe_named(name: str) -> Recipe:
    """A recipe by name; an unknown one is refused with the names there are."""
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}", where="RECIPE", mend=f"Choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def selected_runs(run: Run, recipe: str, typed: frozenset[str] = frozenset()) -> list[tuple[MlmConfig, MaskingConfig]]:
    """The runs to train: the one --mlm.name names, else all the recipe lists.

    A listed run takes what its entry says, except where a setting differs from the recipe's default or its flag was
    `typed`.
    """
    base = recipe_named(recipe)
    listed = {entry.name: entry for entry in base.mlm_runs}
    if run.mlm.name:
        entries = [listed.get(run.mlm.name) or MlmRun(name=run.mlm.name, init=run.mlm.init)]
    else:
        for flag, ours, theirs in (
            ("--masking", run.masking, base.run.masking),
            ("--mlm.init", run.mlm.init, base.run.mlm.init),
        ):
            if ours != theirs:
                raise UserError(
                    "it says how one run is made", where=flag, mend="Add --mlm.name NAME, its folder in mlm/"
                )
        entries = list(base.mlm_runs)

    def merged(group: str, ours: Any, theirs: Any, changes: dict[str, Any]) -> Any:
        kept = {
            name: value
            for name, value in changes.items()
            if getattr(ours, name) == getattr(theirs, name) and f"--{group}.{name.replace('_', '-')}" not in typed
        }
        return dataclasses.replace(ours, **kept)

    return [
        (
            merged(
                "mlm", dataclasses.replace(run.mlm, name=entry.name), base.run.mlm, {"init": entry.init, **entry.mlm}
            ),
            merged("masking", run.masking, base.run.masking, entry.masking),
        )
        for entry in entries
    ]
