#!/bin/bash
# For on-clones.sh: starts PostgreSQL on clones of its volumes, and checks every table and index.
#
#     check-postgresql.sh [--preload=LIBRARIES] DATADIR [DATABASE SQL]
#
# DATADIR is that of the server in use; here it leads to a clone. SQL asks for what you know of your
# data, as `select count(*) > 0 from orders`: the answer has to be true. No library is preloaded but
# those of --preload: they can be missing here, or do something by themselves. Name those that your
# tables or the recovery need, as `--preload=timescaledb`.
set -euo pipefail

declare -F on_clone >/dev/null || {
    echo "${0##*/}: run it by on-clones.sh: else it would start a second server on data in use" >&2
    exit 2
}
preload=
case ${1-} in --preload=*) preload=${1#*=}; shift ;; esac
data=$(realpath "$1") database=${2-} sql=${3-}
cd /
for path in "$data" "$data/pg_wal" "$data"/pg_tblspc/*; do
    [ ! -e "$path" ] || on_clone "$path"
done
bin=/usr/lib/postgresql/$(cat "$data/PG_VERSION")/bin
run=$(mktemp -d -p /dev/shm)    # of this drill alone
chown postgres "$run"
pg() { runuser -u postgres -- "$bin/$@"; }

finish() {
    pg pg_ctl -D "$data" -m immediate stop >&2 || true
    rm -r "$run"
}
trap finish EXIT
trap 'exit 143' INT TERM

rm -f "$data/postmaster.pid"    # of the server that was running at the cut
# Nobody can connect but this script, and nothing of it goes to archives, other servers or logs.
options="-k $run -c listen_addresses='' -c archive_mode=off -c max_logical_replication_workers=0"
options="$options -c external_pid_file='' -c logging_collector=off"
options="$options -c shared_preload_libraries='$preload'"
options="$options -c session_preload_libraries='' -c local_preload_libraries=''"
if ! pg pg_ctl -D "$data" -w -t 3600 -l "$run/log" -o "$options" start >&2; then
    cat "$run/log" >&2
    exit 1
fi
grep -E 'database system|redo' "$run/log" >&2 || true
pg pg_amcheck -h "$run" --all --install-missing --heapallindexed
if [ -n "$sql" ]; then
    answer=$(pg psql -h "$run" -d "$database" -v ON_ERROR_STOP=1 -qAtX -c "$sql")
    [ "$answer" = t ] || { echo "not true, but ${answer:-nothing}: $sql" >&2; exit 1; }
fi
