"""The `report` verb: pictures, tables and a page from the files a run left. Reads only; no model is opened."""

from __future__ import annotations

import html
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardmask.pipeline import figures
from hardmask.pipeline.config import Run
from hardmask.pipeline.figures import Row
from hardmask.pipeline.publish import write_text
from hardmask.pipeline.results import Results, Training, read_results
from hardmask.pipeline.runfolder import RunFolder
from hardmask.pipeline.summary import detail_tables, hardest_over_uniform, summary_tables
from hardmask.pipeline.tables import Table, as_csv, as_html, as_markdown, as_text


def make_report(_run: Run, folder: RunFolder) -> None:
    """Write `report/` (index.html, summary.md, a PNG and a CSV a figure) and print the summary.

    What a stage has not left yet is left out. UserError: the folder holds no run, or a damaged file.
    """
    results = read_results(folder)
    folder.report.mkdir(parents=True, exist_ok=True)
    drawn = [picture for picture in PICTURES if _draw(picture, results, folder.report)]
    tables = summary_tables(results)
    places = _places(folder, results)
    title = f"hardmask, {folder.path.resolve().name}"
    details = detail_tables(results)
    write_text(folder.report / "summary.md", "\n".join([f"# {title}\n", *map(as_markdown, [*tables, places])]))
    write_text(folder.report / "index.html", _page(title, tables, drawn, details))
    text = "\n\n".join(map(as_text, [*tables, places]))
    encoding = sys.stdout.encoding or "utf-8"
    print("\n" + text.encode(encoding, "replace").decode(encoding))


def _places(folder: RunFolder, results: Results) -> Table:
    """Where things lie, for those that are there."""
    candidates = [
        ("the report, with all pictures", folder.report / "index.html"),
        ("its pictures and their numbers", folder.report / "*.png, *.csv"),
        ("hardness shards", folder.hardness / "shards" if results.hardness else None),
        ("auto-regressive LMs", folder.path / "alm" if results.alm else None),
        *((f"masked LM {name}", folder.mlm / name) for name in results.mlm if results.mlm[name].done),
        ("fine-tuning results", folder.glue / "table.md" if results.glue_table else None),
    ]
    return Table("Files", ["", ""], [[what, shown_path(path)] for what, path in candidates if path is not None], left=2)


def shown_path(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


# ---------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Picture:
    """One figure: its numbers from the results (none: it is left out), and how it is drawn from them."""

    name: str
    caption: str
    rows: Callable[[Results], list[Row]]
    draw: Callable[[Sequence[Row], Path], None]


def _draw(picture: Picture, results: Results, folder: Path) -> bool:
    """Write NAME.csv and NAME.png; without data, those of an earlier report are removed."""
    rows = picture.rows(results)
    table, image = folder / f"{picture.name}.csv", folder / f"{picture.name}.png"
    if not rows:
        table.unlink(missing_ok=True)
        image.unlink(missing_ok=True)
        return False
    write_text(table, as_csv(rows))
    picture.draw(rows, image)
    return True


def _losses(training: Training, name: dict[str, str], held_out: str) -> list[Row]:
    """The lines of one training's metrics, `name` in front of each."""
    lines = [line for line in training.metrics if "loss" in line or held_out in line]
    return [
        {
            **name,
            "step": line["step"],
            "tokens": training.tokens_at(line["step"]),
            "training_loss": line.get("loss"),
            held_out: line.get(held_out),
        }
        for line in lines
    ]


def _alm_loss(results: Results) -> list[Row]:
    return [row for d, training in results.alm.items() for row in _losses(training, {"direction": d}, "held_out_loss")]


def _mlm_loss(results: Results) -> list[Row]:
    return [
        row
        for name, training in results.mlm.items()
        for row in _losses(training, {"run": name}, "held_out_uniform_loss")
    ]


def _p_distribution(results: Results) -> list[Row]:
    numbers = results.numbers.get("hardness")
    if not numbers:
        return []
    columns = (
        numbers["cumulative_p"],
        numbers["p_by_position"],
        numbers["nll_by_position"]["forward"],
        numbers["nll_by_position"]["backward"],
    )
    count = len(numbers["cumulative_p"])
    return [
        {
            "index": index,
            "share_of_positions": index / count,
            "cumulative_p": held,
            "p": p,
            "nll_forward": forward,
            "nll_backward": backward,
        }
        for index, (held, p, forward, backward) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _perplexity_alpha(results: Results) -> list[Row]:
    return [
        {"run": name, **point, "hardest_over_uniform": hardest_over_uniform(training)}
        for name, training in results.mlm.items()
        for point in training.done.get("over_alpha", ())
    ]


def _mask_overlap(results: Results) -> list[Row]:
    numbers = results.numbers.get("masks")
    if not numbers:
        return []
    shared = {"nll_all": numbers["nll_all"], "epochs": numbers["epochs"]}
    return [{**row, **shared} for row in numbers["over_alpha"]]


def _words(results: Results) -> list[Row]:
    return [
        {
            "text": word["text"],
            "log10_perplexity_forward": word["log10_perplexity_forward"],
            "log10_perplexity_backward": word["log10_perplexity_backward"],
            "log10_perplexity_mean": word["nll_mean"] / math.log(10),
            "ends_document": word["ends_document"],
        }
        for word in results.numbers.get("words", {}).get("words", ())
    ]


PICTURES = (
    Picture(
        "words",
        "A passage with each word shaded by its perplexity: 1/p of the word, the product over its tokens, given the "
        "text on one side of it. ¶ ends a document; a square stands for a character the font lacks.",
        _words,
        figures.words,
    ),
    Picture(
        "p-distribution",
        "Left: how much of P, a sequence's perplexities divided by their sum, its hardest positions hold. Right: the "
        "mean at each position. Where one direction has little context, at the beginning for the forward LM and at "
        "the end for the backward one, tokens look harder than they are.",
        _p_distribution,
        figures.p_distribution,
    ),
    Picture(
        "perplexity-alpha",
        "Perplexity of each masked LM on held-out tokens that masks of hardness pick, from the hardest (α = 0) to all "
        "alike (∞). The paper reports 35.43 and 2.47 for RoBERTa-large.",
        _perplexity_alpha,
        figures.perplexity_alpha,
    ),
    Picture(
        "mask-overlap",
        "Left: the share of masked tokens that the next epoch masks again, and of all tokens ever masked. Right: how "
        "hard the masked tokens are, mean of both directions.",
        _mask_overlap,
        figures.mask_overlap,
    ),
    Picture(
        "alm-loss",
        "Training loss is over all predicted tokens, separators included; held-out loss over content tokens.",
        _alm_loss,
        figures.alm_loss,
    ),
    Picture(
        "mlm-loss",
        "Faint: training loss on the run's own masks, which are harder for hardness masking. Solid: held-out loss on "
        "uniform masks, by which runs compare.",
        _mlm_loss,
        figures.mlm_loss,
    ),
)


# ---------------------------------------------------------------- the page

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .75rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
.left { text-align: left; }
.note, figcaption { color: var(--soft); font-size: .85rem; max-width: 48rem; }
figure { margin: 2rem 0; } img { max-width: 100%; height: auto; background: white; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #aaa; } body { background: #16181c; color: #ddd; }
  a { color: #8ab4f8; } img { border-radius: 6px; }
}
"""


def _page(title: str, tables: Sequence[Table], pictures: Sequence[Picture], details: Sequence[Table]) -> str:
    """One HTML file that needs nothing but the pictures beside it."""
    shown = "\n".join(
        f'<figure><a href="{p.name}.png"><img src="{p.name}.png" alt="{p.name}" width="1001"></a>'
        f'<figcaption>{html.escape(p.caption)} <a href="{p.name}.csv">Numbers</a></figcaption></figure>'
        for p in pictures
    )
    name = html.escape(title)
    sections: list[Any] = [*map(as_html, tables), shown, *map(as_html, details)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body><h1>{name}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
