"""Download of the official archives of CIFAR-10 and CIFAR-100, with MD5 check and unpacking."""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from reid.cifar.official import layout_of
from reid.errors import DataError
from reid.files import atomic

_TIMEOUT = 30  # seconds without a response: a machine without a network would otherwise wait for minutes


def download_cifar(root: Path, name: str) -> Path:
    """Downloads and unpacks the official archive into `root`; an archive that is already there is not downloaded again.

    Args:
        root: the data root; created if it is missing.
        name: cifar10 or cifar100.

    Returns:
        The official folder in `root`; if it exists already, it is not changed.

    Raises:
        ConfigError: unknown name.
        DataError: the server cannot be reached, the MD5 of the archive differs, or `root` cannot be written.
    """
    official, root = layout_of(name).official, Path(root)
    folder, archive = root / official.base_folder, root / official.filename
    if folder.is_dir():
        return folder
    if not archive.is_file():
        with atomic(archive) as partial:
            _fetch(official, partial, archive)
            _check(official, partial)
    else:
        _check(official, archive)
    _unpack(archive, folder)
    return folder


def _fetch(official: type[CIFAR10], partial: Path, archive: Path) -> None:
    bar = {"unit": "B", "unit_scale": True, "desc": official.filename, "disable": None}
    try:
        with (
            urllib.request.urlopen(official.url, timeout=_TIMEOUT) as response,
            tqdm.wrapattr(response, "read", total=response.length, **bar) as source,
            open(partial, "wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # an HTTPError is also the open response
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{official.url}: cannot be downloaded: {reason}; download it on a machine with network access, put it "
            f"at {archive}, and try again"
        ) from None


def _check(official: type[CIFAR10], archive: Path) -> None:
    found = calculate_md5(archive)
    if found != official.tgz_md5:
        raise DataError(
            f"{archive}: expected MD5 {official.tgz_md5}, got {found} ({archive.stat().st_size} bytes): the file is "
            f"incomplete or a different one; remove it and download {official.url} again"
        )


def _unpack(archive: Path, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        os.replace(partial / folder.name, folder)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{folder}: cannot unpack {archive} there: {error}; is the disk full?") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
