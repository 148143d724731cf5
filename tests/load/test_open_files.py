"""The limit of open files: raised as far as the system lets it, and clients that would not fit into it are refused and not dropped."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PROGRAM = """\
import resource
from gateway.process import allow_open_files, clients_max
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_open_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], clients_max({wanted}, {upstream}))
"""


@pytest.mark.parametrize(
    "soft, hard, wanted, upstream, found",
    [
        pytest.param(256, 4_064, 10_000, 1_000, "4064 3000", id="what a few files leave beside the upstream's"),
        pytest.param(256, 1_064, 10_000, 1_000, "1064 500", id="half, where the upstream would take all of them"),
        pytest.param(256, 4_064, 50, 1_000, "4064 50", id="as many as are wanted, where there are enough"),
    ],
)
def test_clients_fit_into_the_files_there_may_be(soft: int, hard: int, wanted: int, upstream: int, found: str) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine allows fewer open files than the test gives away")
    program = PROGRAM.format(soft=soft, hard=hard, wanted=wanted, upstream=upstream)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.strip() == found
