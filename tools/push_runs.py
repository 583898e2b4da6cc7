"""Push what ran here, so that no machine that pulls from the remote runs it again.

    python -m tools.push_runs [REMOTE]

Pushes each run that DVC's run cache knows, and all that came of it. `dvc push --run-cache` pushes
the runs, but not the reports that came of them, since Git tracks those; and DVC takes no run from
the run cache of which a file is missing. Elsewhere `dvc repro --pull` takes all from the remote.
No command of DVC's does this, so it calls `Repo.stage_cache` and `Repo.cloud`, which are not
documented: a new DVC may change them, and tests/test_push_runs.py notices.
"""

import argparse
import logging

from cnn.base.errors import UserError
from cnn.base.program import run


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="default: DVC's own default")
    remote = parser.parse_args(argv).remote
    from dvc.repo import Repo

    for name in ("dvc_objects", "dvc_data"):  # they log what they raise or return
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with Repo() as repo, repo.lock:
            runs = repo.stage_cache.push(remote)
            objects = set().union(*repo.stage_cache.get_used_objs(runs).values())
            pushed, failed = repo.cloud.push(objects, remote=remote)
    except Exception as error:  # the remotes have many kinds, and packages, of them
        raise UserError(" ".join(str(error).split())) from None
    if failed:
        raise UserError(f"{len(failed)} of {len(objects)} files were not pushed; run it again")
    print(f"{len(runs)} runs and {len(pushed)} files pushed")


if __name__ == "__main__":
    raise SystemExit(run(main))
