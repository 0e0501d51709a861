"""2,000 bad values and damaged files: no traceback, nothing left, a message that names the key or the file.

BAD_INPUTS=300 for fewer, BAD_INPUTS_SEED=2 for others. Ten minutes on two cores.
"""

import os
from collections import Counter

import pytest
from forked import preload, run_all
from inputs import configurations, files, made

MANY = int(os.environ.get("BAD_INPUTS", "2000"))
SEED = int(os.environ.get("BAD_INPUTS_SEED", "0"))


@pytest.mark.parametrize("what", [configurations, files])
def test_no_bad_input_ends_in_a_traceback(tmp_path, what):
    preload()
    base = made(tmp_path / "base")
    cases = what(MANY * 7 // 10 if what is configurations else MANY * 3 // 10, SEED, base)
    ended, faults = Counter(), []
    for one in run_all(cases, tmp_path):
        ended[one.code] += 1
        if one.fault():
            faults.append(str(one))
    print(f"{len(cases)} {what.__name__}, {len(faults)} faults, exit codes {dict(ended)}")
    assert not faults, "\n\n".join(faults)
