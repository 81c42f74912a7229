"""The `glue` stage: fine-tune every chosen model on every chosen task, one setting a task, and tabulate the dev scores.

A job is (model, task, settings). Its result is one line of `results.jsonl`, its dev predictions one file of
`predictions/`; both carry a key made from all the job depends on, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmask.pipeline.config import GlueConfig, Run, as_json
from hardmask.pipeline.distributed import choose_device
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.json_lines import append_line
from hardmask.pipeline.publish import write_json
from hardmask.pipeline.runfolder import RunFolder, provenance
from hardmask.stage2_pretrain.fine_tune import fine_tune, job_settings
from hardmask.stage2_pretrain.glue_metrics import read_results, write_table
from hardmask.stage2_pretrain.glue_tasks import TASKS, TaskData, available_tasks, read_task
from hardmask.stage2_pretrain.probes import PROBES, make_probes

PROBE_BYTES = 20_000_000
"""UTF-8 bytes of the corpus probe tasks are made from, at most."""
PROBE_SEED = 1
"""Of the probe tasks' rows, which stay the same when --glue.seed varies."""


@dataclass(frozen=True)
class Model:
    """A model to fine-tune: what tables call it, what `from_pretrained` opens, and a digest of its content."""

    name: str
    path: str
    fingerprint: str


def run_glue(run: Run, folder: RunFolder, documents: Callable[[], list[tuple[str, str]]] | None = None) -> None:
    """Fine-tune all chosen models on GLUE or, without --glue.path, on probe tasks; write `glue/table.md`.

    `documents` gives the (source name, text) documents probes are made from; None: the run's corpus.
    """
    settings = run.glue
    device = choose_device(run.device).type
    models = choose_models(settings.models, folder)
    tasks = choose_tasks(settings, documents or (lambda: corpus_documents(run, folder)))
    write_json(folder.glue / "config.json", {"settings": as_json(settings), **provenance()})
    known = read_results(folder.glue / "results.jsonl")
    results = []
    for task in tasks:
        digest = task_digest(task)
        for model in models:
            tokenizer = load_tokenizer(model.path, folder.tokenizer)
            key = job_key(model, digest, tokenizer, settings)
            if key not in known:
                out = folder.glue / "predictions" / key[:16]
                done = fine_tune(model.path, tokenizer, task, settings, device=device, out=out, quiet=run.quiet)
                del done["predictions"]
                known[key] = {"key": key, "model": model.name, **done}
                append_line(folder.glue / "results.jsonl", known[key])
            results.append(known[key])
    write_table(results, folder.glue)


def check_settings(run: Run, folder: RunFolder) -> None:
    """Refuse tasks and a data folder that are not there, before anything is spent."""
    settings = run.glue
    known = list(TASKS) if settings.path else [*PROBES]
    for name in settings.tasks:
        if name not in known:
            mend = f"Choose of {', '.join(known)}" + ("" if settings.path else ", or give --glue.path for GLUE tasks")
            raise UserError(f"there is no task {name!r}", where="--glue.tasks", mend=mend)
    if settings.path and settings.path != "hub" and not Path(settings.path).is_dir():
        raise UserError("there is no such folder", where=f"--glue.path {settings.path}", mend="Check it, or give hub")


# Which jobs there are


def choose_tasks(settings: GlueConfig, documents: Callable[[], list[tuple[str, str]]]) -> list[TaskData]:
    """The GLUE tasks under --glue.path or, without one, the probe tasks; those --glue.tasks names, else all."""
    if settings.path:
        names = settings.tasks or available_tasks(settings.path)
        untrained = [name for name in names if name in TASKS and "train" not in TASKS[name].sizes]
        if untrained:
            mend = "Leave it away: its rows are predicted by a model trained on mnli"
            raise UserError(f"{untrained[0]} has nothing to train on", where="--glue.tasks", mend=mend)
        if not names:
            mend = "Give the folder that holds CoLA, MRPC, … with train.tsv and dev.tsv"
            raise UserError("no task has its files there", where=f"--glue.path {settings.path}", mend=mend)
        return [read_task(name, settings.path) for name in names]
    probes = {probe.name: probe for probe in make_probes(documents(), settings.probe_rows, PROBE_SEED)}
    unknown = [name for name in settings.tasks if name not in probes]
    if unknown or not probes:
        what = f"there is no probe task {unknown[0]!r}" if unknown else "the corpus has too little text for probe tasks"
        mend = f"Give --glue.path for GLUE tasks, or a larger corpus; probes made: {' '.join(probes) or 'none'}"
        raise UserError(what, where="--glue.tasks" if unknown else "--glue.path", mend=mend)
    return [probes[name] for name in settings.tasks or probes]


def corpus_documents(run: Run, folder: RunFolder) -> list[tuple[str, str]]:
    """(source name, text) documents of the run's corpus: PROBE_BYTES of it, the same share from every source."""
    from hardmask.pipeline.corpus import open_sources, read_documents

    sources = open_sources(run.corpus, folder.corpus)
    found = []
    for source in sources:
        limit = min(PROBE_BYTES // len(sources), run.corpus.max_bytes or PROBE_BYTES)
        part = dataclasses.replace(run.corpus, max_bytes=limit)
        found += [(source.name, text) for _, text in read_documents([source], part)]
    return found


def choose_models(names: Sequence[str], folder: RunFolder) -> list[Model]:
    """The named MLM runs, folders and hub models; without names every finished MLM run."""
    finished = folder.finished_mlm_runs()
    if not names and not finished:
        raise UserError("no MLM run is finished", where=folder.mlm, mend="Pre-train first, or name --glue.models")
    return [_model(name, folder, finished) for name in names or finished]


def _model(name: str, folder: RunFolder, finished: Sequence[str]) -> Model:
    from transformers import AutoConfig

    path = str(folder.mlm / name) if name in finished else name
    if Path(path).is_dir():
        content = hashlib.sha256()
        for file in sorted([*Path(path).glob("config.json"), *Path(path).glob("*.safetensors")]):
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
        return Model(name, path, content.hexdigest())
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        there = f"finished runs: {' '.join(finished) or 'none'}"
        what = f"{name!r} is no finished MLM run, no folder, and the hub gave no such model"
        raise UserError(what, where="--glue.models", mend=f"Name a run, folder or hub model; {there}") from error
    return Model(name, path, str(getattr(config, "_commit_hash", "")))


def load_tokenizer(model_path: str, fallback: Path) -> Any:
    """The tokenizer in the model's folder, else the one in `fallback`; special tokens in the text stay text."""
    from transformers import AutoTokenizer

    own = Path(model_path)
    # A folder without tokenizer files is not left to AutoTokenizer, which may make an empty one from config.json
    has_own = not own.is_dir() or any(own.glob("tokenizer*.json")) or any(own.glob("vocab.*"))
    place = model_path if has_own else str(fallback)
    return AutoTokenizer.from_pretrained(place, split_special_tokens=True, trust_remote_code=False)


def task_digest(task: TaskData) -> str:
    """sha256 of all of a task that a result depends on: its train and dev rows and its metrics."""
    dev = {name: dataclasses.asdict(split) for name, split in task.dev.items()}
    content = [task.name, task.labels, task.metrics, dataclasses.asdict(task.train), dev]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def job_key(model: Model, digest: str, tokenizer: Any, settings: GlueConfig) -> str:
    """sha256 of a job's content: model, task (its digest), tokenizer and settings."""
    tokens = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    content = [model.name, model.fingerprint, digest, tokens, job_settings(settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
