"""What a user can fix, reported in one line."""

import errno

# What the system refuses, and what the user can do about it.
ROOM, RIGHTS, WAY = "make room there", "see to it that it may be read and written", "clear the way"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit on the size of files ('ulimit -f')",
    errno.EMFILE: "raise the limit on open files ('ulimit -n')",
    errno.ENFILE: "raise the limit on open files ('ulimit -n')",
    errno.ENOMEM: "free some memory",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.EIO: "check the disk",
    errno.ENOENT: "see to it that it is there",
    errno.EEXIST: WAY,
    errno.ENOTDIR: WAY,
    errno.EISDIR: WAY,
    errno.ELOOP: WAY,
    errno.ENAMETOOLONG: "choose a shorter path",
}
AGAIN = "and run the same command again"
# DVC removes a stage's outputs before the stage can refuse; they are in its cache.
RUN = "and run 'dvc repro', which also brings back what DVC removed"


class UserError(Exception):
    """What the user can fix, in one line: a bad value, a missing or damaged file."""


def reason(error: OSError) -> str:
    """Return why the system refused, and what to do about it."""
    return f"{error.strerror}; {REMEDIES.get(error.errno, 'fix it')} {AGAIN}"


def brief(value: object, most: int = 60) -> str:
    """Return `repr(value)`, cut in its middle to about `most` characters."""
    text = repr(value)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def printable(path: object) -> str:
    """Return a path as text on one line that any terminal can show."""
    text = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
