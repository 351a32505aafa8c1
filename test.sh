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
# MariaDB's too.
[ -x /usr/sbin/mariadbd ] || need+=(mariadb-server)
command -v mariadb-dump >/dev/null || need+=(mariadb-client)
command -v c++ >/dev/null || need+=(build-essential)
# The model of the protocol is searched by spin and a C compiler.
command -v spin >/dev/null || need+=(spin)
# The time zones that retention is tested in, and tools whose output is recognised.
[ -e /usr/share/zoneinfo/Europe/Amsterdam ] || need+=(tzdata)
command -v gzip >/dev/null || need+=(gzip)
command -v zstd >/dev/null || need+=(zstd)
command -v openssl >/dev/null || need+=(openssl)
# Servers for remote repositories and what asks them; faults below the program.
[ -x /usr/sbin/sshd ] || need+=(openssh-server)
command -v sftp >/dev/null || need+=(openssh-client)
command -v curl >/dev/null || need+=(curl)
command -v fiu-run >/dev/null || need+=(fiu-utils)
python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3 python3-venv)
if [ ${#need[@]} -gt 0 ]; then
  echo "installing: ${need[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

# Servers that Debian does not have: some of PyPI's, in a virtual environment, and Azurite of npm's. Installed when
# the list or the version changes; a half-done installation is done again.
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
services="$(cd "$target" && pwd)/services"
wanted=tests/services/requirements.txt
if ! cmp -s "$wanted" "$services/installed.txt"; then
  echo "installing: $(grep -v '^#' "$wanted" | paste -sd ' ')"
  rm -rf "$services"
  python3 -m venv "$services"
  "$services/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
  cp "$wanted" "$services/installed.txt"
fi
azurite=3.37.0
if [ "$(cat "$services/azurite/installed.txt" 2>/dev/null)" != "$azurite" ]; then
  echo "installing: azurite $azurite"
  rm -rf "$services/azurite"
  mkdir "$services/azurite"
  # npm's programs look for `node` on the path.
  PATH="$services/bin:$PATH" "$services/bin/npm" install --prefix "$services/azurite" \
    --no-audit --no-fund --loglevel=error "azurite@$azurite" >/dev/null
  echo "$azurite" >"$services/azurite/installed.txt"
fi

# All kinds of storage are tested, those too that are not built in by default.
cargo test --locked --features sftp,webdav "$@"
