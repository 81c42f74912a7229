"""Every job of a setting, in the order they are begun: what others need first, what costs most last."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import alm_measures
import arms
import gradients
import judged
import material
import measures
from arms import BEYOND, CONTROL, EXPLORED, MATCHED, PAPERS, STRATEGIES, file_name
from found import Found
from jobs import Context, Job
from results import about_this_run, gpu_state
from settings import CAPPED, SAMPLED
from state import read_results

from hardmask.pipeline.runfolder import DIRECTIONS

MATCHED_SEEDS = 6
SAMPLED_STRATEGIES = (CONTROL, "hardness, α 0.005")


def table(context: Context) -> dict[str, Job]:
    """Name -> job. What depends on results appears once they are there."""
    setting, jobs = context.setting, list(_material(context))
    sizes, bases = ("large", "small"), range(setting.bases)
    all_bases = {size: tuple(f"base.{size}.{seed}" for seed in bases) for size in sizes}
    jobs += [_trained(name, seed, setting.bases) for seed in range(setting.seeds) for name in PAPERS]
    for size in ("small", "large"):
        jobs += [Job(f"curve.{size}", partial(measures.curve, size=size), all_bases[size])]
    jobs += [
        Job("agreement", measures.agreement, all_bases["small"]),
        Job("concentration", alm_measures.concentration, ("hardness",)),
        Job("depth", alm_measures.depth, (*_alms("half-a", "half-a-again", "half-a-shallow"), "tokens.half-b")),
        Job("in-sample", alm_measures.in_sample, _alms("half-a", "half-a-again", "half-b")),
        *_gradients(),
    ]
    jobs += [_downstream(name, s, task) for s in range(setting.downstream_seeds) for name in PAPERS for task in CAPPED]
    jobs += [_trained(name, seed, setting.bases) for seed in range(setting.seeds) for name in BEYOND]
    whole = [
        name for name in (*PAPERS, *BEYOND) if not STRATEGIES[name].part
    ]  # a part's nats are not those of the text
    jobs += [Job(f"masks.{file_name(n)}", partial(arms.masks_of, name=n), _masks_need(n)) for n in whole]
    explored = [name for name in EXPLORED if not name.endswith(" 7")]  # K 7 is what a rate of 0.15 makes
    jobs += [_trained(name, seed, setting.bases) for seed in range(setting.seeds) for name in explored]
    jobs += [_from_scratch(name, seed) for seed in range(setting.seeds) for name in (CONTROL, *EXPLORED)]
    jobs += [
        _downstream(name, s, task)
        for s in range(setting.sample_seeds)
        for name in SAMPLED_STRATEGIES
        for task in SAMPLED
    ]
    for seed in range(min(MATCHED_SEEDS, setting.downstream_seeds)):
        jobs += [_trained(MATCHED, seed, setting.bases)]
        jobs += [_downstream(MATCHED, seed, task) for task in CAPPED]
    named = {job.name: job for job in jobs}
    for name in judged.candidates(Found(read_results(context.folder / "results"))):
        named |= {
            job.name: job
            for s in range(setting.downstream_seeds)
            for job in (_downstream(name, s, task) for task in CAPPED)
        }
    return named


def _material(context: Context) -> list[Job]:
    setting = context.setting

    def folder(part: str) -> Path:
        return context.run_folder(part).path

    jobs = [
        Job("about", lambda _: {**about_this_run(), "gpu": gpu_state()}),
        Job("text", material.text, makes=lambda c: c.folder / "text" / "half-0.txt"),
    ]
    for part in ("", *material.HALVES):
        name = part or "whole"
        needs = ("text", "tokens.whole") if part else ("text",)
        place = folder(part)
        jobs.append(
            Job(
                f"tokens.{name}",
                partial(material.tokens, part=part),
                needs,
                makes=lambda _, place=place: place / "tokens" / "done.json",
            )
        )
        jobs += [
            Job(
                f"alm.{name}.{direction}",
                partial(material.alm, part=part, direction=direction),
                (f"tokens.{name}",),
                makes=lambda _, place=place, direction=direction: place / "alm" / direction / "training" / "done.json",
            )
            for direction in DIRECTIONS
        ]
        if not part:
            jobs.append(
                Job(
                    "hardness",
                    material.hardness,
                    _alms("whole"),
                    makes=lambda _, place=place: place / "hardness" / "done.json",
                )
            )
            for size in ("small", "large"):
                for seed in range(setting.bases):
                    jobs.append(
                        Job(
                            f"base.{size}.{seed}",
                            partial(material.base, size=size, seed=seed),
                            ("hardness",),
                            makes=lambda c, size=size, seed=seed: (
                                material.base_path(c, size, seed) / "training" / "done.json"
                            ),
                        )
                    )
    jobs += [
        Job("pmi", material.pmi, ("hardness",), makes=lambda c: c.folder / "annotations" / "pmi" / "done.json"),
        Job("edges", material.edges, ("hardness",), makes=lambda c: c.folder / "edges" / "tokenizer"),
        Job("alphas", arms.alphas, ("hardness",)),
    ]
    return jobs


def _alms(*parts: str) -> tuple[str, ...]:
    return tuple(f"alm.{part}.{direction}" for part in parts for direction in DIRECTIONS)


def _masks_need(name: str) -> tuple[str, ...]:
    return ("hardness", *STRATEGIES[name].needs)


def _trained(name: str, seed: int, bases: int) -> Job:
    needs = STRATEGIES[CONTROL if name == MATCHED else name].needs
    return Job(
        f"continued.{file_name(name)}.{seed}",
        partial(arms.train_strategy, name=name, seed=seed),
        (f"base.small.{seed % bases}", *needs),
        makes=lambda c: arms.path_of(c, name, seed) / "training" / "done.json",
    )


def _from_scratch(name: str, seed: int) -> Job:
    return Job(
        f"scratch.{file_name(name)}.{seed}",
        partial(arms.train_strategy, name=name, seed=seed, scratch=True),
        ("hardness",),
    )


def _downstream(name: str, seed: int, task: str) -> Job:
    return Job(
        f"downstream.{file_name(name)}.{seed}.{task}",
        partial(arms.downstream, name=name, seed=seed, task=task),
        (f"continued.{file_name(name)}.{seed}",),
    )


def _gradients() -> list[Job]:
    behind = {
        "scratch": "early",
        "base": "base.small.0",
        "continued": f"continued.{file_name(CONTROL)}.0",
    }
    early = Job(
        "early", gradients.scratch, ("hardness",), makes=lambda c: gradients.scratch_path(c) / "training/done.json"
    )
    return [
        early,
        *(Job(f"gradients.{at}", partial(gradients.gradients, checkpoint=at), (behind[at],)) for at in behind),
    ]
