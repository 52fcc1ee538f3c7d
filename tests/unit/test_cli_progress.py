"""Times as they are typed on the command line."""

from __future__ import annotations

import pytest

from dualcert.cli.progress import duration
from dualcert.errors import UsageProblem


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300.0), ("90s", 90.0), ("7", 7.0), ("0", 0.0)])
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999", "", "soon", "5 minutes", "٣"])
def test_what_is_no_time_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(UsageProblem, match="--longest"):
        duration(text, "--longest")
