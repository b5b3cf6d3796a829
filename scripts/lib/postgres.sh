# shellcheck shell=bash
# PostgreSQL: a cluster of our own with Debian's binaries; password login over loopback TCP, no Unix socket.

postgres_stop_signal() { echo INT; } # "fast": ends the sessions, then itself
postgres_start_seconds() { echo 60; }

# The newest version that is installed.
postgres_bin() {
  local initdb
  initdb=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n1)
  [[ -x $initdb ]] || initdb=$(command -v initdb) || return 1
  dirname "$initdb"
}

postgres_missing_packages() { postgres_bin >/dev/null || echo postgresql; }

postgres_prepare() { :; }

postgres_choose_ports() { choose_port postgres; }

# Command that must not be root: as Debian's postgres user then, else as ourselves. Replaces the process, so the pid stays.
as_postgres() {
  if is_root; then printf '%s\n' setpriv --reuid=postgres --regid=postgres --init-groups; else echo env; fi
}

postgres_start() {
  local data=$SERVICES_DIR/data/postgres bin as
  bin=$(postgres_bin)
  mapfile -t as < <(as_postgres)
  "${as[@]}" test -x "$SERVICES_DIR" ||
    die "user postgres cannot enter $SERVICES_DIR: name another folder in TRIGGER_DISPATCHER_SERVICES"
  [[ -d $data ]] || postgres_initialize "$data"
  "${as[@]}" tee "$data/conf.d/ours.conf" >/dev/null <<CONF
port = ${PORT[postgres]}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
max_wal_size = '256MB'
shared_buffers = ${TRIGGER_DISPATCHER_POSTGRES_BUFFERS:-256MB}
shared_preload_libraries = 'pg_stat_statements'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
CONF
  remove_stale_lock "$data/postmaster.pid"
  launch postgres "${as[@]}" "$bin/postgres" -D "$data"
}

# After a SIGKILL, PostgreSQL takes its own dead predecessor for alive until somebody has reaped it, which may be never in a
# container whose first process does not. We know that no server of ours runs here.
remove_stale_lock() {
  local pid
  [[ -f $1 ]] || return 0
  pid=$(head -n1 "$1")
  if is_gone "$pid" || [[ $(<"/proc/$pid/comm") != postgres ]]; then rm -f "$1"; fi
}

postgres_initialize() {
  local data=$1 new=$1.new password=$SERVICES_DIR/postgres.password
  rm -rf "$new"
  (umask 077 && head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$password")
  if is_root; then
    install -d -o postgres -g postgres -m 700 "$new"
    chown postgres "$password"
  fi
  # Nothing to lose yet, hence --no-sync; the server itself runs with fsync on.
  (
    cd "$SERVICES_DIR" &&
      "${as[@]}" "$bin/initdb" -D "$new" -U postgres --pwfile="$password" --auth=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8 --no-sync --no-instructions &&
      "${as[@]}" mkdir "$new/conf.d" &&
      # A file of its own, and not arguments: ALTER SYSTEM must be able to overrule it.
      echo "include_dir = 'conf.d'" | "${as[@]}" tee -a "$new/postgresql.conf" >/dev/null
  ) >>"$(log_file postgres)" 2>&1 || die "initdb failed, see $(log_file postgres)"
  mv "$new" "$data"
}

postgres_psql() {
  PGPASSWORD=$(<"$SERVICES_DIR/postgres.password") PGCONNECT_TIMEOUT=2 \
    "$(postgres_bin)/psql" -X -h 127.0.0.1 -p "${PORT[postgres]}" -U postgres -d postgres -Atq "$@"
}

# Makes sure of the view that tests read statement counts from; the extension is there after the first time.
postgres_ready() {
  postgres_psql -c 'SET client_min_messages = error' -c 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements' >/dev/null 2>&1
}

postgres_env() {
  export_line TEST_POSTGRES_URL "postgres://postgres:$(<"$SERVICES_DIR/postgres.password")@127.0.0.1:${PORT[postgres]}/postgres"
}
