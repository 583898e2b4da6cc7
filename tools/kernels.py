"""Build the kernels for this machine, unless they are there: `python -m tools.kernels`."""

import argparse

from cnn.base.program import run
from cnn.kernels import build


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.parse_args(argv)
    if build.is_built():
        return
    compiler = build.build()
    if compiler is None:
        print("no C compiler works here: fetching ziglang for the kernels ...", flush=True)
        build.build_with_zig()
        compiler = "ziglang"
    print(f"kernels built by {compiler}: {', '.join(build.levels())}")


if __name__ == "__main__":
    raise SystemExit(run(main))
