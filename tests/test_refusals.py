"""What the user must change is said in one line, before anything of theirs is touched. Exit code 2."""

from __future__ import annotations

import re
import shutil

import pytest
import refused
from refused_corpus import CORPUS
from refused_folders import FOLDERS
from refused_models import MODELS
from refused_settings import SETTINGS

from hardmask.pipeline.cli import main
from hardmask.pipeline.errors import USER_ERROR

CASES = (*SETTINGS, *CORPUS, *FOLDERS, *MODELS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    refused.make_run(folder)
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """The current folder: a copy of the finished run, and its corpus."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_refused_in_a_line_and_nothing_is_touched(case, here, capsys, monkeypatch):
    if case.prepare:
        case.prepare()
    before = refused.digest(here)
    with monkeypatch.context() as patched:
        if case.patch:
            case.patch(patched)
        code = main(case.arguments())
    error = capsys.readouterr().err
    assert code == USER_ERROR, error
    (line,) = error.splitlines()
    for pattern in (r"^hardmask: .+\. .+\.$", *case.said):
        assert re.search(pattern, line), f"{pattern} in {line}"
    assert not refused.differences(before, refused.digest(here), case.adds)
