#!/usr/bin/env bash
# The same dumps through every backup tool that is installed, in turn, each from a file on standard input:
#
#   benches/compare.sh ./target/release/alluvium FOLDER
#
# FOLDER holds one dump a day: 0.sql, 1.sql, ... (pg_dump shop >FOLDER/0.sql). restic, borg, rustic and bupstash take part
# where they are found; zstd is the measure of what is possible without storing anything. Prints a line for each backup:
# tool, day, seconds, peak memory in KiB, bytes of the repository. Needs GNU time and zstd.
set -euo pipefail
alluvium=$(realpath "$1")
dumps=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work XDG_CACHE_HOME=$work/cache
export ALLUVIUM_PASSWORD=x RESTIC_PASSWORD=x RUSTIC_PASSWORD=x BORG_PASSPHRASE=x BUPSTASH_KEY=$work/key
cd "$work"

have() { command -v "$1" >/dev/null; }
timed() { # tool, day, command with its redirections
  local figures bytes
  figures=$(/usr/bin/time -f '%e,%M' -o "$work/time" bash -c "$3" >/dev/null 2>"$work/said" && cat "$work/time") ||
    { echo "$1 failed on day $2:" >&2; cat "$work/said" >&2; exit 1; }
  bytes=$([ -d "$1" ] && du -sb "$1" | cut -f1 || true)
  echo "$1,$2,$figures,$bytes"
}

"$alluvium" -q -r alluvium init
if have restic; then restic -q -r restic init --repository-version 2 >/dev/null; fi
if have borg; then borg init -e repokey-blake2 borg 2>/dev/null; fi
if have rustic; then rustic -r rustic init >/dev/null 2>&1; fi
if have bupstash; then bupstash new-key -o key && bupstash init -r bupstash; fi

backup() { # day, dump
  cat "$2" >/dev/null # from memory for all of them
  timed alluvium "$1" "exec '$alluvium' -q -r alluvium snapshot --name shop - <'$2'"
  if have restic; then timed restic "$1" "exec restic -q -r restic backup --stdin --stdin-filename d.sql <'$2'"; fi
  if have borg; then timed borg "$1" "exec borg create --compression zstd,3 --stdin-name d.sql 'borg::$1' - <'$2'"; fi
  if have rustic; then timed rustic "$1" "exec rustic -r rustic backup -f --stdin-filename d.sql - <'$2'"; fi
  if have bupstash; then timed bupstash "$1" "exec bupstash put -r bupstash -q day=$1 - <'$2'"; fi
  timed zstd-T0 "$1" "exec zstd -3 -T0 -q -c <'$2'"
}

echo "tool,day,seconds,peak_KiB,repository_bytes"
day=0
while [ -e "$dumps/$day.sql" ]; do
  backup "$day" "$dumps/$day.sql"
  day=$((day + 1))
done
last=$((day - 1))
backup same "$dumps/$last.sql"
timed alluvium restore "exec '$alluvium' -q -r alluvium restore shop"
if have restic; then timed restic restore "exec restic -q -r restic dump latest d.sql"; fi
if have borg; then timed borg restore "exec borg extract --stdout 'borg::$last'"; fi
if have rustic; then timed rustic restore "exec rustic -r rustic dump latest:d.sql"; fi
if have bupstash; then timed bupstash restore "exec bupstash get -r bupstash -q day=$last"; fi
