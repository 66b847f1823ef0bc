"""Memory that training keeps, counted in page faults; devices."""

import subprocess
import sys

import pytest
import torch

from reid import runtime
from reid.errors import ConfigError

FAULTS = """
import resource, torch
from reid.runtime import Runtime

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
Runtime(torch.device("cpu"), torch.float32).keep_memory()
print(given_back, min(faults() for _ in range(8)))  # the first calls still make the heap larger
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc can be told, other C libraries cannot")
def test_kept_memory_is_not_cleared_again_by_the_system():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept * 10 < given_back


def test_an_apple_gpu_that_is_not_there():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with (
        pytest.raises(ConfigError, match=r"device: 'mps' requested, but torch .* sees no Apple GPU; use device=cpu"),
        runtime.start("mps"),
    ):
        pass


def test_draws_of_a_device_without_float64_stay_below_1():
    draws = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    apple = runtime.Runtime(torch.device("mps"), torch.float32).exact(draws)
    assert apple.dtype == torch.float32
    assert (apple < 1).all()
    assert runtime.Runtime(torch.device("cpu"), torch.float32).exact(draws) is draws
