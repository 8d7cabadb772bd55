"""Hub repositories: a revision is resolved to a commit once, so that a branch that moves can't mix two models.

Everything of one side (configuration, weights, tokenizer, adapter, code) is then loaded at that commit.
Offline, the branches and tags recorded in the local cache answer instead of the Hub.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name

from workbench.errors import CheckpointError
from workbench.pairs.loading.sources import Source

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit hash."""
_SNAPSHOT = re.compile(r"/models--[^/]+/snapshots/([0-9a-f]{40})(?:/|$)")


def resolved(source: Source) -> Source:
    """Return the source with its commit: the one the revision stands for now, or that a cache folder is named after.

    Args:
        source: A live module or plain folder comes back as it is.

    Raises:
        CheckpointError: There is no such repository or revision, or it can't be reached and isn't in the cache.
    """
    if source.live is not None or source.commit is not None:
        return source
    if source.folder is not None:
        found = _SNAPSHOT.search(str(source.folder.absolute()))
        return source if found is None else replace(source, commit=found[1])
    name = str(source.repository)
    try:
        before = cached_commits(name)
        commit = huggingface_hub.resolve_revision(
            name, revision=source.revision, local_files_only=huggingface_hub.is_offline_mode()
        ).resolved
    except RevisionNotFoundError as err:
        raise _no_revision(source, _remote_revisions(name)) from err
    except RevisionResolutionError as err:
        raise _unreachable(source) from err
    except GatedRepoError as err:
        raise _refused(source, "access to this repository must be asked for on its page.") from err
    except RepositoryNotFoundError as err:
        raise _refused(source, "the Hub has no such repository, or it is private.") from err
    except HFValidationError as err:
        raise _refused(source, "this is neither a folder nor a Hub id (`owner/name`).") from err
    if huggingface_hub.is_offline_mode() and commit not in before:
        raise _no_revision(source, _cached_revisions(name))
    return replace(source, commit=commit, elsewhere=tuple(c for c in before if c != commit))


def cached_commits(name: str) -> tuple[str, ...]:
    """Return the commits of a repository that lie in the local cache, newest first."""
    folder = _cache_folder(name) / "snapshots"
    found = [path for path in folder.iterdir() if COMMIT.fullmatch(path.name)] if folder.is_dir() else []
    return tuple(path.name for path in sorted(found, key=lambda path: (-path.stat().st_mtime, path.name)))


def snapshot_folder(source: Source) -> Path | None:
    """Return the folder the files of a source lie in: its own, or its commit in the local cache; None when absent."""
    if source.live is not None or source.folder is not None:
        return source.folder
    folder = _cache_folder(str(source.repository)) / "snapshots" / str(source.commit) / (source.subfolder or "")
    return folder if folder.is_dir() else None


def file_names(source: Source) -> frozenset[str]:
    """Return the names of a source's files relative to its root, the whole repository's for a Hub id.

    Offline these are the files the cache holds.
    """
    if source.repository is None or huggingface_hub.is_offline_mode():
        root = snapshot_folder(replace(source, subfolder=None))
        if root is None or not root.is_dir():
            return frozenset()
        inside = [*root.iterdir(), *((root / source.subfolder).glob("*") if source.subfolder else ())]
        return frozenset(path.relative_to(root).as_posix() for path in inside)
    return frozenset(HfApi().list_repo_files(source.repository, revision=source.at))


def _cache_folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def _remote_revisions(name: str) -> list[str]:
    refs = HfApi().list_repo_refs(name)
    return [f"{ref.name} = {ref.target_commit}" for ref in (*refs.branches, *refs.tags)]


def _cached_revisions(name: str) -> list[str]:
    root = _cache_folder(name) / "refs"
    refs = [path for path in sorted(root.rglob("*")) if path.is_file()] if root.is_dir() else []
    named = [f"{path.relative_to(root).as_posix()} = {path.read_text().strip()}" for path in refs]
    return [*named, *(f"commit {commit}" for commit in cached_commits(name))]


def _unreachable(source: Source) -> CheckpointError:
    name = str(source.repository)
    if cached_commits(name):
        return _no_revision(source, _cached_revisions(name))
    near = _other_case(name)
    offline = huggingface_hub.is_offline_mode()
    return _refused(
        source,
        "there is no such folder, and this repository isn't in the local cache and can't be reached"
        + (" (HF_HUB_OFFLINE is set)." if offline else "."),
        fix=f"Did you mean {near[0]!r}, which is in the cache?"
        if near
        else f"Check the name or path; or go online once and run `hf download {name}`.",
    )


def _other_case(name: str) -> list[str]:
    wanted = repo_folder_name(repo_id=name, repo_type="model")
    cache = Path(constants.HF_HUB_CACHE)
    near = [p.name for p in cache.glob("models--*") if p.name != wanted and p.name.lower() == wanted.lower()]
    return [folder.removeprefix("models--").replace("--", "/") for folder in sorted(near)]


def _no_revision(source: Source, known: Iterable[str]) -> CheckpointError:
    offline = huggingface_hub.is_offline_mode()
    where = "the local cache of this repository (HF_HUB_OFFLINE is set)" if offline else "this repository"
    return CheckpointError(
        f"{where} has no such revision.",
        argument=source.argument,
        got=f"{source.repository} at {source.revision or 'main'}",
        allowed="; ".join(known) or "nothing",
        fix="Pass one of these as `revision=`" + (", or go online." if offline else "."),
    )


def _refused(source: Source, what: str, *, fix: str | None = None) -> CheckpointError:
    return CheckpointError(
        what,
        argument=source.argument,
        got=source.label,
        allowed="a Hub id, a local folder or a live module",
        fix=fix or "Check the name; for gated and private repositories run `hf auth login` with an account that may.",
    )
