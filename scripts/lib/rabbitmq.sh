# shellcheck shell=bash
# RabbitMQ: a node with a name, an Erlang home and a name server (epmd) of its own, loopback only.

rabbitmq_stop_signal() { echo TERM; }
rabbitmq_start_seconds() { echo 90; }

# Not the one in /usr/sbin, which changes to the system's user and folders.
RABBITMQ_SERVER=/usr/lib/rabbitmq/bin/rabbitmq-server
RABBITMQ_CTL=/usr/lib/rabbitmq/bin/rabbitmqctl

rabbitmq_missing_packages() { [[ -x $RABBITMQ_SERVER ]] || echo rabbitmq-server; }

rabbitmq_prepare() { :; }

rabbitmq_choose_ports() {
  choose_port rabbitmq
  choose_port rabbitmq_distribution
  # The name server may have outlived the node; it keeps its port then.
  is_alive epmd || choose_port epmd
}

rabbitmq_start() {
  local home=$SERVICES_DIR/data/rabbitmq
  mkdir -p "$home"
  : >"$home/environment.conf" # instead of the system's
  echo '[].' >"$home/enabled_plugins"
  cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.default = 127.0.0.1:${PORT[rabbitmq]}
log.file = false
log.console = true
log.console.level = info
log.console.use_colors = off
CONF
  # Erlang would start the name server by itself, and leave it behind as nobody's child.
  is_alive epmd || launch epmd epmd -address 127.0.0.1 -port "${PORT[epmd]}"

  # What the server and its command line must have in common to find each other.
  local node=(
    HOME="$home"
    ERL_EPMD_ADDRESS=127.0.0.1
    ERL_EPMD_PORT="${PORT[epmd]}"
    RABBITMQ_CONF_ENV_FILE="$home/environment.conf"
    RABBITMQ_NODENAME="trigger-dispatcher-$CHECKOUT_KEY@localhost"
  )
  printf '#!/usr/bin/env bash\nexec env%s %q "$@"\n' "$(printf ' %q' "${node[@]}")" "$RABBITMQ_CTL" >"$SERVICES_DIR/rabbitmqctl"
  chmod +x "$SERVICES_DIR/rabbitmqctl"

  # RUNNING_UNDER_SYSTEMD: no shell in between, so that the pid is the server's.
  launch rabbitmq env "${node[@]}" \
    ERL_CRASH_DUMP="$home/erl_crash.dump" \
    RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" \
    RABBITMQ_DIST_PORT="${PORT[rabbitmq_distribution]}" \
    RABBITMQ_MNESIA_BASE="$home/mnesia" \
    RABBITMQ_LOG_BASE="$home" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}' \
    RUNNING_UNDER_SYSTEMD=true \
    "$RABBITMQ_SERVER"
}

# The memory alarm: connections that publish are held up, those that only consume are not. Forgotten at a restart.
rabbitmq_block() { rabbitmq_control set_vm_memory_high_watermark 0.00001; }
rabbitmq_unblock() { rabbitmq_control set_vm_memory_high_watermark 0.4; }

rabbitmq_control() {
  "$SERVICES_DIR/rabbitmqctl" --quiet "$@" </dev/null || die "rabbitmqctl $1 failed"
}

# The protocol header of AMQP 0-9-1; a server that is ready answers with a method frame (type 1) on channel 0.
rabbitmq_ready() { [[ $(ask "${PORT[rabbitmq]}" 'AMQP\x00\x00\x09\x01' 3) == 010000 ]]; }

# TEST_RABBITMQCTL is a program: rabbitmqctl for this very node.
rabbitmq_env() {
  export_line TEST_AMQP_URL "amqp://guest:guest@127.0.0.1:${PORT[rabbitmq]}//"
  export_line TEST_RABBITMQCTL "$SERVICES_DIR/rabbitmqctl"
}
