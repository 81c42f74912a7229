"""Evidence: do the papers' claims hold at the scale a machine allows? docs/results/claims.md says how it is judged.

    python tests/evidence/run.py cpu            # two cores, about two hours: `make evidence`
    python tests/evidence/run.py toy            # minutes: proves the commands
    python tests/evidence/run.py gpu --minutes 8 --keep FOLDER   # a part of it; FOLDER/state.* goes into the next call
    python tests/evidence/run.py cpu --report   # the tables and pictures again, from what is kept in docs/results/

What is done is kept in runs/evidence-SETTING and, as numbers alone, in docs/results/evidence/SETTING.jsonl; a run that
is stopped goes on from there, trainings from their last checkpoint. On another machine, with the state alone, encoders
are trained anew for what is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(ROOT / "tests" / "benchmarks"))  # what machine this is


def main() -> int:
    import evidence_jobs
    import report
    from carried import carry
    from jobs import Context, do_all
    from settings import CARRIED, SETTINGS
    from state import collect, pack, unpack

    from hardmask.pipeline.errors import STOPPED

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # what is found so far is kept
    args = _arguments(list(SETTINGS))
    setting = SETTINGS[args.setting]
    context = Context(setting, Path(args.out or ROOT / "runs" / f"evidence-{setting.name}").resolve())
    if args.carry:
        print(f"{CARRIED}: {carry(setting, CARRIED) / 1e6:.1f} MB")
        return 0
    kept = Path(args.results).resolve() / f"{setting.name}.jsonl"
    failed: list[str] = []
    if not args.report:
        if args.keep:
            unpack(Path(args.keep), context.folder)
        try:
            failed = do_all(evidence_jobs.table, context, minutes=args.minutes, only=args.only)
        finally:
            collect(context.folder / "results", kept)
            if args.keep:
                pack(context.folder, Path(args.keep))
    report.write(kept, setting)
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return int(bool(failed))


def _arguments(settings: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=settings)
    parser.add_argument("--out", default="", help="run folder; runs/evidence-SETTING")
    parser.add_argument("--results", default=str(ROOT / "docs" / "results" / "evidence"), help="folder of numbers kept")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="stop then; the next start goes on")
    parser.add_argument("--only", default="", help="jobs whose name begins so, and what they need")
    parser.add_argument("--keep", default="", help="folder with the state of a run that goes on on another machine")
    parser.add_argument("--carry", action="store_true", help="only write what is read of the data to evidence-data/")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
