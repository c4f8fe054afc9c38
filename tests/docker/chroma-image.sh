#!/usr/bin/env bash
# Makes the images of the tests with a Chroma server: the host they back up from, and on top of it the server itself,
# out of the wheel that .venv-chroma has.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
image=embedded-db-backup-chroma

"$here/base-image.sh"
bindings=$("$here/../../.venv-chroma/bin/python" -c 'import chromadb_rust_bindings as found; print(*found.__path__)')
tar --create --exclude=__pycache__ -C "$here" chroma chroma.Dockerfile -C "$(dirname "$bindings")" "$(basename "$bindings")" |
    docker build --quiet --file chroma.Dockerfile --tag "$image" -
