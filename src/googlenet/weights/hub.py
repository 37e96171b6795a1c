"""Model files on the Hugging Face Hub: `hf:owner/name`, downloaded into the Hub's own cache, and uploaded."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from googlenet.console import log
from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL_FILE = "model.safetensors"
_PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@(\S+))?")


def is_hub_name(model: str | Path) -> bool:
    return str(model).startswith(_PREFIX)


def download(name: str) -> Path:
    """The model file of a repository by its name, `hf:owner/name` or `hf:owner/name@revision`.

    If the Hub cannot be reached, the file that was downloaded last. Raises `UserError` for a repository, revision or
    file that does not exist or is not public, and `RunError` if the file can neither be downloaded nor is in the cache.
    """
    if (match := _NAME.fullmatch(name)) is None:
        raise UserError(f"{name!r} is not the name of a repository: use hf:owner/name or hf:owner/name@revision")
    repository, revision = match.groups()
    api = hub_api(name)
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    try:
        with clear_errors(api, repository):
            # Asked first, because `hf_hub_download` would try for 24 s to reach a Hub that is not there
            api.get_hf_file_metadata(url=hf_hub_url(repository, MODEL_FILE, revision=revision, endpoint=api.endpoint))
            return Path(api.hf_hub_download(repository, MODEL_FILE, revision=revision))
    except RunError as error:
        cached = try_to_load_from_cache(repository, MODEL_FILE, revision=revision)
        if not isinstance(cached, str):
            raise
        log.warning("%s; using the copy of %s from the cache, which may be an older one", error, name)
        return Path(cached)


def upload(repository: str, files: Mapping[str, Path], *, private: bool = False) -> str:
    """Upload files by their names in a repository, which is created unless it exists, in one commit; its address.

    Raises `UserError` without a token or the right to write, or if `private` and the repository is public; `RunError`
    if the Hub cannot be reached.
    """
    if (match := _NAME.fullmatch(_PREFIX + repository)) is None or match[2]:
        raise UserError(f"{repository!r} is not the name of a repository: use owner/name")
    api = hub_api("push")
    from huggingface_hub import CommitOperationAdd, get_token

    if get_token() is None:
        raise UserError("push needs a token of the Hugging Face Hub: run hf auth login, or set HF_TOKEN")
    with clear_errors(api, repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise UserError(f"the repository {repository} exists and is public: omit --private, or name another one")
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        api.create_commit(repository, operations, commit_message="Upload model with googlenet")
    return f"{api.endpoint}/{repository}"


def hub_api(purpose: str) -> HfApi:
    """The Hub's interface. Raises `UserError` if huggingface_hub, which `purpose` needs, is not installed."""
    require("huggingface_hub", purpose)
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="googlenet")


@contextlib.contextmanager
def clear_errors(api: HfApi, repository: str) -> Iterator[None]:
    """Turns the errors of the Hub and of its HTTP client, which are of many types, into ours."""
    from huggingface_hub import errors

    try:
        yield
    except (UserError, RunError):
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"access to {repository} is restricted: request it at {api.endpoint}/{repository}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the Hub has no repository {repository} that you may read: check the name; if it is private, "
            "run hf auth login, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"the repository {repository} has no such revision: check what follows @") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(
            f"the repository {repository} has no {MODEL_FILE}: googlenet push has not written it"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"the Hub refuses this for {repository} ({status}): use a token with the right to do it "
                "(hf auth login, or HF_TOKEN)"
            ) from error
        problem = error.server_message or reason_of(error)
        raise RunError(f"{api.endpoint} answered {status} for {repository} ({problem}); try again later") from error
    except ValueError as error:  # among them: metadata that the Hub rejects, such as an unknown license
        raise UserError(f"{repository}: {' '.join(str(error).split())}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise RunError(f"cannot use {error.filename}: {reason_of(error)}") from error
        raise RunError(
            f"{api.endpoint} cannot be reached ({reason_of(error)}); check the network and try again"
        ) from error
