#!/bin/bash
# For `duplexctl drill`: mounts the clones where the volumes are mounted, and runs a check there.
#
#     duplexctl drill db --suspend -- on-clones.sh data=/srv/pg/data wal=/srv/pg/wal -- CHECK...
#
# VOLUME=DIRECTORY: the file system on this volume is mounted at this directory; parents first.
# It happens in name spaces of its own, of mounts and of processes. So nobody else sees it, and every
# path that the application has stored (a link to its log, a table space) leads to a clone, never to
# what is in use. All of it ends with CHECK, whose exit code it returns; and with this script, also
# if that is killed: the kernel ends all processes of the name space, and its mounts with them.
#
# Needs root, and nbdfuse (Debian: libnbd-bin, fuse3). CHECK, if it is a bash script, can ask with
# `on_clone PATH` whether a path leads to a clone: that ends it if not. /dev/shm is of this drill
# alone: what CHECK puts there is gone afterwards.
set -euo pipefail

usage() {
    echo "usage: duplexctl drill TARGET -- ${0##*/} VOLUME=DIRECTORY... -- CHECK..." >&2
    exit 2
}

: "${DUPLEXD_URIS:?run it by duplexctl drill}"
work=/dev/shm

# -------------------------------------- 3: the first process of a name space of processes: the check

on_clone() {
    case "$ON_CLONES" in
        *":$(stat -L -c %d "$1"):"*) ;;
        *) echo "$1 is not on a clone: give on-clones.sh the volume that holds it" >&2; exit 1 ;;
    esac
}

run_check() {
    check= directories=()
    trap 'end_check' EXIT
    trap 'exit 143' INT TERM
    while [ "$1" != -- ]; do
        directory=$(realpath -e "${1#*=}")
        mount -o loop "$work/volume-${#directories[@]}/image" "$directory"    # replays its journal
        directories+=("$directory")
        shift
    done
    shift
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
}

end_check() {
    trap '' INT TERM
    [ -z "$check" ] || { kill -- "-$check" && wait "$check"; } 2>/dev/null || true
    for ((i = ${#directories[@]} - 1; i >= 0; i--)); do umount "${directories[i]}" || true; done
}

[ $$ != 1 ] || run_check "$@"

# ------------------------------------------------------------- 1: a name space of mounts, from outside

# Compared with who has called, because a variable that says so can be set by anybody
if [ "$(readlink "/proc/$PPID/ns/mnt")" = "$(readlink /proc/self/ns/mnt)" ]; then
    exec unshare --mount -- "$BASH" "$0" "$@"
fi

# --------------------------------- 2: there, the clones as files, and a name space for the check in it
# Who serves the files is outside of that: a file system is unmounted while its disk is served still.

inside= fuses=()
finish() {
    trap '' INT TERM
    for fuse in "${fuses[@]}"; do fusermount3 -u -z "$fuse" || true; done
}
trap finish EXIT
trap 'exit 143' INT TERM

declare -A uris
while read -r name uri; do uris[$name]=$uri; done <<<"$DUPLEXD_URIS"
mount -t tmpfs -o mode=1777 on-clones "$work"
arguments=("$@")
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    name=${1%%=*}
    if [ -z "${uris[$name]-}" ]; then
        echo "${0##*/}: no volume $name; there are: ${!uris[*]}" >&2
        exit 2
    fi
    fuse=$work/volume-${#fuses[@]}
    mkdir "$fuse"
    setpriv --pdeathsig KILL nbdfuse "$fuse/image" "${uris[$name]}" </dev/null &
    until [ -e "$fuse/image" ]; do
        kill -0 $!
        sleep 0.05
    done
    fuses+=("$fuse")
    shift
done
[ ${#fuses[@]} -gt 0 ] && shift && [ $# -gt 0 ] || usage

set -m    # a process group of its own
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc -- \
    "$BASH" "$0" "${arguments[@]}" </dev/null &
inside=$!
set +m
trap 'kill -TERM -- "-$inside" 2>/dev/null || true' INT TERM
code=0
wait "$inside" || code=$?
while kill -0 "$inside" 2>/dev/null; do    # a signal has ended the wait
    code=0
    wait "$inside" || code=$?
done
exit "$code"
