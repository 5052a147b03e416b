#!/bin/bash
# For `duplexctl drill`: mounts the clones where the volumes are mounted, and runs a check there.
#
#     duplexctl drill db --suspend -- on-clones.sh data=/srv/pg/data wal=/srv/pg/wal -- CHECK...
#
# VOLUME=DIRECTORY: the file system on this volume is mounted at this directory; parents first.
# It happens in a mount name space of its own. So nobody else sees it, and every path that the
# application has stored (a link to its log, a table space) leads to a clone, never to what is in
# use. All of it ends with CHECK, whose exit code it returns.
#
# Needs root, and nbdfuse (Debian: libnbd-bin, fuse3). CHECK, if it is a bash script, can ask with
# `on_clone PATH` whether a path leads to a clone: that ends it if not.
set -euo pipefail

usage() {
    echo "usage: duplexctl drill TARGET -- ${0##*/} VOLUME=DIRECTORY... -- CHECK..." >&2
    exit 2
}

: "${DUPLEXD_URIS:?run it by duplexctl drill}"
if [ -z "${ON_CLONES_APART-}" ]; then
    export ON_CLONES_APART=yes
    exec unshare --mount -- "$BASH" "$0" "$@"
fi

declare -A uris
while read -r name uri; do uris[$name]=$uri; done <<<"$DUPLEXD_URIS"
work=$(mktemp -d) directories=() fuses=() check=

finish() {
    trap '' INT TERM
    [ -z "$check" ] || { kill -- "-$check" && wait "$check"; } 2>/dev/null || true
    for ((i = ${#directories[@]} - 1; i >= 0; i--)); do umount "${directories[i]}" || true; done
    for fuse in "${fuses[@]}"; do fusermount3 -u -z "$fuse" || true; done
    rm -rf --one-file-system "$work" || true
}
trap finish EXIT
trap 'exit 143' INT TERM

while [ $# -gt 0 ] && [ "$1" != -- ]; do
    name=${1%%=*} directory=$(realpath -e "${1#*=}")
    if [ -z "${uris[$name]-}" ]; then
        echo "${0##*/}: no volume $name; there are: ${!uris[*]}" >&2
        exit 2
    fi
    fuse=$work/${#fuses[@]}
    mkdir "$fuse"
    nbdfuse "$fuse/image" "${uris[$name]}" </dev/null &
    until [ -e "$fuse/image" ]; do
        kill -0 $!
        sleep 0.05
    done
    fuses+=("$fuse")
    mount -o loop "$fuse/image" "$directory"    # the file system replays its journal
    directories+=("$directory")
    shift
done
shift && [ $# -gt 0 ] || usage

on_clone() {
    case "$ON_CLONES" in
        *":$(stat -L -c %d "$1"):"*) ;;
        *) echo "$1 is not on a clone: give on-clones.sh the volume that holds it" >&2; exit 1 ;;
    esac
}
export -f on_clone
ON_CLONES=:$(stat -c %d "${directories[@]}" | paste -s -d :):    # their devices
export ON_CLONES
set -m    # a process group of its own, which is ended as a whole
"$@" </dev/null &
check=$!
set +m
code=0
wait "$check" || code=$?
check=
exit "$code"
