#!/usr/bin/env bash
# Makes the image that the container tests start from. Docker's own cache keeps it until the Dockerfile changes.
# Debian is pulled where a registry answers, else bootstrapped from Debian's package archive.
set -euo pipefail

image=embedded-db-backup-target
pulled=debian:bookworm-slim
bootstrapped=embedded-db-backup-debian:bookworm

exists() { docker image inspect "$1" >/dev/null 2>&1; }

install_mmdebstrap() {
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "base-image: $pulled cannot be pulled; install mmdebstrap, then run this again" >&2
        exit 69
    fi
    apt-get update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends mmdebstrap
}

bootstrap() {
    command -v mmdebstrap >/dev/null || install_mmdebstrap
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

docker build --quiet --build-arg "BASE=$base" --tag "$image" - <"$(dirname "$0")/Dockerfile"
