"""Pushing an export to the Hugging Face hub: only when asked, and private unless asked otherwise."""

from pathlib import Path
from typing import Any

from mmts.console import console
from mmts.errors import RunError, first_line


def check_push(name: str, public: bool) -> str:
    """Return the whole name, OWNER/NAME, of the repository that an export can be pushed to.

    Raises RunError if it cannot be, or if the repository is public already and `public` is not set.
    """
    from huggingface_hub import HfApi, get_token

    needed = "--push needs a token of Hugging Face that may write: `hf auth login` stores one, or set HF_TOKEN to it"
    if get_token() is None:
        raise RunError(needed)
    try:
        api: Any = HfApi()
        who = api.whoami()
        name = name if "/" in name else f"{who['name']}/{name}"
        is_private = api.model_info(name).private if api.repo_exists(name) else None
    except Exception as error:  # whatever the library for HTTP raises, or that nothing can have this name
        raise RunError(f"--push {name}: the hub cannot be asked: {first_line(error)}") from None
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise RunError(f"{needed}; the present one may only read")
    owners = [who["name"], *(group["name"] for group in who.get("orgs", []))]
    if name.partition("/")[0] not in owners:
        raise RunError(f"--push {name}: the owner is not {' or '.join(owners)}, as your token says")
    if is_private is False and not public:
        raise RunError(f"{name} is a public repository already: give --public to push there, or another name")
    if is_private and public:
        console.print(f"note: {name} is there already and stays private; its settings on the hub change that")
    return name


def push(folder: Path, name: str, public: bool) -> None:
    """Upload an export into the repository `name`, made if it is not there; print its address, or raise RunError."""
    from huggingface_hub import HfApi

    try:
        api: Any = HfApi()
        url = api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of mmts")
        is_private = api.model_info(name).private
    except Exception as error:  # whatever the library for HTTP raises
        why = f"cannot be pushed to {name}: {first_line(error)}; the same command tries again"
        raise RunError(f"{folder} is whole, but {why}") from None
    console.print(f"pushed: {url} ({'private' if is_private else 'public'})")
