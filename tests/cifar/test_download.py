"""The download."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import CIFAR100

from reid.cifar import download, official
from reid.errors import ConfigError, DataError
from tests.cifar.conftest import refused


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands in for the official server, with a small archive; yields the folder that it serves."""
    served, name = tmp_path / "served", CIFAR100.filename
    served.mkdir()
    with tarfile.open(served / name, "w:gz") as tar:
        for file in ("train", "test", "meta"):
            member = tarfile.TarInfo(f"cifar-100-python/{file}")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"bytes"))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5((served / name).read_bytes()).hexdigest())
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{running.server_port}/{name}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield served
        running.shutdown()
        thread.join()


def test_a_download_is_checked_and_unpacked(server, tmp_path):
    root = tmp_path / "new" / "root"
    folder = download.download_cifar(root, "cifar100")
    assert folder == root / "cifar-100-python" and (folder / "train").read_bytes() == b"bytes"
    assert sorted(path.name for path in root.iterdir()) == ["cifar-100-python", "cifar-100-python.tar.gz"]
    shutil.rmtree(server)
    assert download.download_cifar(root, "cifar100") == folder  # there already: nothing is asked of the server
    shutil.rmtree(folder)
    assert (
        download.download_cifar(root, "cifar100") / "meta"
    ).is_file()  # from the archive, fetched or put there by hand


def test_an_archive_that_is_not_the_official_one_is_not_unpacked(server, tmp_path):
    archive = server / CIFAR100.filename
    archive.write_bytes(archive.read_bytes()[:-10])
    root = tmp_path / "root"
    fetch = functools.partial(download.download_cifar, root, "cifar100")
    refused(DataError, fetch, "expected MD5", CIFAR100.url)
    assert not list(root.iterdir())
    shutil.copy(archive, root)
    refused(DataError, fetch, str(root / CIFAR100.filename), "expected MD5", "remove it")
    assert [path.name for path in root.iterdir()] == [CIFAR100.filename]


def test_without_a_server_the_error_says_what_to_put_where(server, tmp_path, monkeypatch):
    (server / CIFAR100.filename).unlink()
    fetch = functools.partial(download.download_cifar, tmp_path / "root", "cifar100")
    refused(
        DataError, fetch, CIFAR100.url, "cannot be downloaded", f"put it at {tmp_path / 'root' / CIFAR100.filename}"
    )
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    refused(DataError, fetch, "http://127.0.0.1:9/", "refused", "cannot be downloaded")
    (tmp_path / "file").touch()
    refused(DataError, lambda: download.download_cifar(tmp_path / "file", "cifar100"), "cannot write")
    refused(ConfigError, lambda: download.download_cifar(tmp_path, "imagenet"), "'imagenet'")


def test_the_addresses_are_the_official_ones():
    assert [layout.official.url for layout in official.LAYOUTS.values()] == [
        f"https://www.cs.toronto.edu/~kriz/cifar-{number}-python.tar.gz" for number in (10, 100)
    ]
