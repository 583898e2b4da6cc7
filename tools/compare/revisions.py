"""What Git knows by name, commits, branches, tags and experiments, and the files in them."""

import os
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

from cnn.base.errors import UserError

HERE = Path()
WORKSPACE = "workspace"  # as DVC calls what is checked out
EXPERIMENTS = "refs/exps/*/*/"  # DVC keeps an experiment of commit ABC... in refs/exps/AB/C.../NAME


def git(*words: str, at: Path = HERE) -> bytes | None:
    """Return what git prints; None where it fails.

    Raises
    ------
    UserError
        There is no git, or no repository here, or it belongs to another user.
    """
    environment = os.environ | {"LC_ALL": "C"}  # its messages are looked into
    try:
        done = subprocess.run(["git", *words], cwd=at, capture_output=True, env=environment)
    except FileNotFoundError:
        raise UserError("git: is not installed; this reads what it has recorded") from None
    message = done.stderr.decode(errors="replace")
    if foreign := re.search(r"dubious ownership in repository at '(.*)'", message):
        raise UserError(
            f"{foreign[1]}: belongs to another user, and Git does not read it; if you trust it: "
            f"git config --global --add safe.directory {foreign[1]}"
        )
    if "not a git repository" in message:
        raise UserError(
            f"{at.absolute()}: not in a Git repository, which this reads; clone the project "
            "instead of unpacking an archive"
        )
    return None if done.returncode else done.stdout


def references(*patterns: str) -> list[tuple[str, str]]:
    """Return (commit, full name) of the references that match Git's patterns."""
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", *patterns) or b""
    return [tuple(line.split(" ", 1)) for line in lines.decode().splitlines()]


def of_head(name: str) -> str:
    """Return the reference to HEAD's experiment of a name, or a pattern of such."""
    head = (git("rev-parse", "HEAD") or b"").decode().strip()
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def names() -> list[str]:
    """Return the names of all experiments, branches and tags, sorted, each once."""
    found = {name.split("/", 2)[2] for _, name in references("refs/heads", "refs/tags")}
    experiments = {name.rpartition("/")[2] for _, name in references(f"{EXPERIMENTS}*")}
    return sorted(found | experiments)


def matching(pattern: str) -> list[str]:
    """Return the names that a shell's pattern such as 'fast-*' matches, or a plain name itself.

    Raises
    ------
    UserError
        The pattern matches no name.
    """
    if not set("*?[").intersection(pattern) or "^{" in pattern:  # HEAD^{/text} is Git's
        return [pattern]
    found = [name for name in names() if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(
            f"'{pattern}': matches no experiment, branch or tag; "
            "'dvc exp list --all-commits' names the experiments"
        )
    return found


def commit_of(revision: str) -> str:
    """Return the commit that a name stands for; of experiments of one name that of HEAD.

    Raises
    ------
    UserError
        No commit or several have that name.
    """
    # Git would take these for HEAD, a folder and an option.
    if revision and ":" not in revision and not revision.startswith("-"):
        if commit := git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"):
            return commit.decode().strip()
        experiments = references(EXPERIMENTS + revision)
        if len(experiments) > 1:
            own = [each for each in experiments if each[1] == of_head(revision)]
            if not own:
                raise UserError(
                    f"'{revision}': {len(experiments)} experiments of other commits have this "
                    "name; 'dvc exp list --all-commits --sha-only' has what tells them apart"
                )
            experiments = own
        if experiments:
            return experiments[0][0]
    raise UserError(
        f"'{revision}': unknown Git revision; 'git branch', 'git tag' and 'dvc exp list' name some"
    )


def read_texts(revision: str, *paths: str) -> list[str]:
    """Return the texts of files below the working directory, as they are in `revision`.

    Raises
    ------
    UserError
        The revision is unknown, or a file is missing there or not text.
    """
    commit = None if revision == WORKSPACE else commit_of(revision)
    texts = []
    for path in paths:
        if commit:
            content = git("cat-file", "blob", f"{commit}:./{path}")
        else:
            content = Path(path).read_bytes() if Path(path).exists() else None
        if content is None:
            raise UserError(
                f"{path}: not in '{revision}'; `dvc repro` writes it, and a commit keeps it"
            )
        try:
            texts.append(content.decode())
        except UnicodeDecodeError:
            raise UserError(f"{path} of '{revision}': is not text; restore it") from None
    return texts
