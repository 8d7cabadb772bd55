"""A Hub cache made by hand, so that repositories, branches and commits can be tested without a network."""

import os
import shutil
from hashlib import sha1, sha256
from pathlib import Path

from huggingface_hub import constants


def commit_hash(text: str) -> str:
    """Return forty hexadecimal digits, as a commit has, made from a word."""
    return sha1(text.encode()).hexdigest()


class FakeHub:
    """A folder laid out like the cache of ``huggingface_hub``: refs, snapshots of links, blobs."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def commit(self, name: str, files: Path, *, commit: str, branch: str | None = "main", inside: str = "") -> str:
        """Add a snapshot holding a folder's files, and let a branch or tag point at it.

        Args:
            name: ``owner/name``.
            files: Folder whose files are stored.
            commit: A word the commit's hash is made from; given twice, files are added to that snapshot.
            branch: What points at it; None moves nothing.
            inside: Sub-folder of the repository the files go to.
        """
        digest = commit_hash(commit)
        root = self.cache / f"models--{name.replace('/', '--')}"
        for path in sorted(files.rglob("*")):
            if path.is_file():
                self._store(root, path, root / "snapshots" / digest / inside / path.relative_to(files))
        if branch is not None:
            ref = root / "refs" / branch
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(digest)
        return digest

    def _store(self, root: Path, path: Path, link: Path) -> None:
        blob = root / "blobs" / sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def use(monkeypatch, cache: Path) -> FakeHub:
    """Let ``huggingface_hub`` and transformers see only this cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return FakeHub(cache)
