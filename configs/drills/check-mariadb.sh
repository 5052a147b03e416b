#!/bin/bash
# For on-clones.sh: starts MariaDB on clones of its volumes, and checks every table.
#
#     check-mariadb.sh [--defaults-file=FILE] [SQL]
#
# FILE is that of the server in use, by default /etc/mysql/my.cnf; its directories lead to clones
# here. SQL asks for what you know of your data, as `select count(*) > 0 from app.orders`: the answer
# has to be true.
set -euo pipefail

declare -F on_clone >/dev/null || {
    echo "${0##*/}: run it by on-clones.sh: else it would start a second server on data in use" >&2
    exit 2
}
defaults=--defaults-file=/etc/mysql/my.cnf
case ${1-} in --defaults-file=*) defaults=$1; shift ;; esac
sql=${1-}
version=$(mariadbd --no-defaults --version | sed -nE 's/.*Ver ([0-9]+\.[0-9]+).*/\1/p')
# All groups that a server of this version reads
settings=$(my_print_defaults "$defaults" mysqld "mysqld-${version:?}" server mariadb \
    "mariadb-$version" mariadbd "mariadbd-$version" client-server galera)
data=$(sed -n 's/^--datadir=//p' <<<"$settings" | tail -n 1)
on_clone "${data:=/var/lib/mysql}"
while read -r path; do
    [ -d "$path" ] || path=$(dirname "$path")    # the binary log is given by the beginning of a name
    on_clone "$path"
done < <(sed -nE 's/^--(innodb|log[-_]bin|relay[-_]log|aria[-_]log)([-_][a-z_-]*)?=(\/.*)/\3/p' \
    <<<"$settings")
run=$(mktemp -d -p /dev/shm)    # of this drill alone
chown mysql "$run"

finish() {
    [ -z "${server-}" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    rm -r "$run"
}
trap finish EXIT
trap 'exit 143' INT TERM

# Nobody can connect but this script, and it connects to no other server.
mariadbd "$defaults" --datadir="$data" --user=mysql --socket="$run/socket" --pid-file="$run/pid" \
    --log-error="$run/server.err" --skip-networking --skip-grant-tables --skip-slave-start \
    --event-scheduler=DISABLED --general-log=0 --slow-query-log=0 &
server=$!
until mariadb-admin --no-defaults --socket="$run/socket" ping >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || { cat "$run/server.err" >&2; exit 1; }
    sleep 0.1
done
grep -iE 'crash recovery|log sequence number|ready for connections' "$run/server.err" >&2 || true
mariadb-check --no-defaults --socket="$run/socket" --all-databases --silent | tee "$run/found"
[ ! -s "$run/found" ]
if [ -n "$sql" ]; then
    answer=$(mariadb --no-defaults --socket="$run/socket" --batch -N -e "$sql")
    [ "$answer" = 1 ] || { echo "not true, but ${answer:-nothing}: $sql" >&2; exit 1; }
fi
