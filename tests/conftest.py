"""What holds for all tests."""

import signal
from collections.abc import Iterator

import pytest

from reid import cli


@pytest.fixture(autouse=True, scope="session")
def own_compiler_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """torch.compile keeps machine code between runs; what another instruction set left there does not run here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


_HANDLERS = {signum: signal.getsignal(signum) for signum in cli.STOPPING}  # before any fixture has called a command


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that was called in this process ends deaf to signals; a pool that a later test forks would then never end.

    Fixtures of modules and of the session, which run before this one, may have called one too.
    """
    _restore()
    yield
    _restore()


def _restore() -> None:
    for signum, handler in _HANDLERS.items():
        signal.signal(signum, handler)
