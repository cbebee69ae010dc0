"""Faults in single calls of a run: every task ID stays findable, and nothing is paid twice."""

from pathlib import Path

import pytest

from tests.faults.injection import COMMANDS, FAULTS, try_fault


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FAULTS)
def test_no_id_is_lost(name: str, command: str, lasting: bool, tmp_path: Path) -> None:
    """Whichever call fails: the second one here, all of them in the table."""
    outcome = try_fault(command, FAULTS[name], 1, tmp_path, lasting=lasting)
    assert list(outcome.complaints()) == [], outcome.done.stderr
