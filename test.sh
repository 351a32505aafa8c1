#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Nothing is skipped: what is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")"

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# PostgreSQL's server: the tests start private ones. Debian starts one of its own at installation, which
# is of no use here.
need=()
ls -d /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need+=(postgresql)
command -v psql >/dev/null || need+=(postgresql-client)
command -v c++ >/dev/null || need+=(build-essential)
# The model of the protocol is searched by spin and a C compiler.
command -v spin >/dev/null || need+=(spin)
# The time zones that retention is tested in, and tools whose output is recognised.
[ -e /usr/share/zoneinfo/Europe/Amsterdam ] || need+=(tzdata)
command -v gzip >/dev/null || need+=(gzip)
command -v zstd >/dev/null || need+=(zstd)
command -v openssl >/dev/null || need+=(openssl)
if [ ${#need[@]} -gt 0 ]; then
  echo "installing: ${need[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

cargo test --locked "$@"
