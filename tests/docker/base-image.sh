#!/usr/bin/env bash
# Makes the image that the container tests start from. Docker's own cache keeps it until the Dockerfile changes.
# Debian is pulled where a registry answers, else bootstrapped from Debian's package archive.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
image=embedded-db-backup-target
pulled=debian:bookworm-slim
bootstrapped=embedded-db-backup-debian:bookworm

exists() { docker image inspect "$1" >/dev/null 2>&1; }

bootstrap() {
    python3 "$here/../../tools/debian.py" mmdebstrap=mmdebstrap >&2
    mmdebstrap --quiet --variant=minbase bookworm - | docker import - "$bootstrapped"
}

if exists "$bootstrapped"; then
    base=$bootstrapped
elif exists "$pulled" || timeout 60 docker pull "$pulled"; then
    base=$pulled
else
    bootstrap
    base=$bootstrapped
fi

docker build --quiet --build-arg "BASE=$base" --tag "$image" - <"$here/Dockerfile"
