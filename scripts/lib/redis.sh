# shellcheck shell=bash
# Redis: append-only file, no snapshots, never evicts.

redis_stop_signal() { echo TERM; }
redis_start_seconds() { echo 30; }

redis_missing_packages() { command -v redis-server >/dev/null || echo redis-server; }

redis_prepare() { :; }

redis_choose_ports() { choose_port redis; }

redis_start() {
  mkdir -p "$SERVICES_DIR/data/redis"
  launch redis redis-server --port "${PORT[redis]}" --bind 127.0.0.1 --dir "$SERVICES_DIR/data/redis" --daemonize no \
    --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction
}

# "+PONG". While it still loads its file, it answers "-LOADING".
redis_ready() { [[ $(ask "${PORT[redis]}" 'PING\r\n' 5) == 2b504f4e47 ]]; }

redis_env() { export_line TEST_REDIS_URL "redis://127.0.0.1:${PORT[redis]}/0"; }
