"""The kernels are built by the first compiler that works, with flags of our own alone."""

import os
import shlex
import sys

from cnn import kernels
from cnn.kernels import Kernels, build


def test_the_first_compiler_that_works_builds_with_our_flags_alone(compiler, tmp_path, monkeypatch):
    for name in ("CFLAGS", "CPPFLAGS", "LDFLAGS"):
        monkeypatch.setenv(name, "-ffast-math --no-such-flag")
    for name in ("cc", "gcc"):
        (tmp_path / name).symlink_to("/bin/false")
    (tmp_path / "clang").write_text(f'#!/bin/sh\nexec {shlex.join(compiler[0])} "$@"\n')
    (tmp_path / "clang").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    flags = build.level_flags("plain", compiler[1])
    monkeypatch.setattr(build, "LEVELS", {"plain": flags})  # each takes seconds

    assert build.build() == "clang"
    assert kernels.self_check(Kernels("plain")) == kernels.CHECKED


def test_without_a_compiler_it_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert refusal(kernels.load.__wrapped__) == (
        "the kernels are not built; run 'make repro', which brings a compiler"
    )
