"""Commands in the test's own process, in a directory of their own."""

import pytest


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
