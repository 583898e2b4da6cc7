#!/usr/bin/env bash
# Where `cache.type` is `reflink` alone, DVC tracks a file that it cannot bring back, and says that
# the cache lacks what it has.
#
# dvc 3.67.1, Python 3.11, Linux, a file system without reflinks (tmpfs here; ext4 alike). `dvc add`
# ends with 0, `dvc status` is up to date, and the object lies in the cache. Once the file is gone,
# `dvc checkout` fails with "Is your cache up to date?" and a link to a page on missing files. DVC's
# own default, `reflink,copy`, falls back to copies; a list of one's own falls back to nothing, and
# with another kind at its end the same cache checks out. So who sets `cache.type` must end the list
# with what works everywhere: symlink or copy.
#
# Output seen:
#   add: 0, Data and pipelines are up to date.
#   objects in the cache: 1
#   checkout by reflink: 255, Is your cache up to date?
#   checkout by reflink,copy: 0
set -euo pipefail
expected=$(grep "^#   " "$0" | cut -c5-)
folder=$(mktemp -d)
project=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$folder" "$project"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
dvc() { "$folder/venv/bin/dvc" "$@"; }
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
cd "$project"
dvc init --no-scm --quiet
dvc config cache.type reflink
echo content > file
code=0; dvc add --quiet file || code=$?
seen="add: $code, $(dvc status)
objects in the cache: $(find .dvc/cache/files -type f | wc -l)"
rm file
code=0; said=$(dvc checkout file.dvc 2>&1) || code=$?
seen="$seen
checkout by reflink: $code, $(grep -o 'Is your cache up to date?' <<< "$said")"
dvc config cache.type reflink,copy
code=0; dvc checkout --quiet file.dvc || code=$?
seen="$seen
checkout by reflink,copy: $code"
echo "$seen"
[ "$seen" == "$expected" ]
