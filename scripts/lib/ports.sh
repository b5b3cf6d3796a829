# shellcheck shell=bash
# Which port each service has. Chosen once and remembered in the services' folder, so that a restart keeps it.
#
# All ports lie below 32768, where Linux begins to hand out ports to outgoing connections: a client that keeps knocking at a
# dead service's port could else be given that very port, connect to itself, and keep the service from coming back.

declare -A DEFAULT_PORT=(
  [kafka]=27092 [kafka_controller]=27093 [kafka_sasl]=27094 [kafka_proxied]=27095 [kafka_proxy]=27096
  [postgres]=27432
  [redis]=27379
  [rabbitmq]=27672 [rabbitmq_distribution]=27673 [epmd]=27369
)
declare -A PORT=()

load_ports() {
  local name port
  PORT=()
  [[ -f $SERVICES_DIR/ports ]] || return 0
  while IFS='=' read -r name port; do PORT[$name]=$port; done <"$SERVICES_DIR/ports"
}

save_ports() {
  local name
  for name in "${!PORT[@]}"; do printf '%s=%s\n' "$name" "${PORT[$name]}"; done | sort >"$SERVICES_DIR/ports.new"
  mv "$SERVICES_DIR/ports.new" "$SERVICES_DIR/ports"
}

# is_listening PORT: whether any process does, on any address (0A is LISTEN in the kernel's table).
is_listening() {
  awk -v port="$(printf ':%04X' "$1")" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

is_chosen() {
  local port
  for port in "${PORT[@]}"; do [[ $port == "$1" ]] && return; done
  return 1
}

# choose_port NAME: an order in TRIGGER_DISPATCHER_PORT_NAME is obeyed or fails; else the remembered port, else the default,
# else any free one. For a service that is not running.
choose_port() {
  local name=$1 order="TRIGGER_DISPATCHER_PORT_${1^^}" port
  port=${!order:-}
  if [[ -n $port ]]; then
    is_listening "$port" && die "$order=$port: another program listens there"
    PORT[$name]=$port
    return
  fi
  port=${PORT[$name]:-${DEFAULT_PORT[$name]}}
  unset "PORT[$name]"
  while is_listening "$port" || is_chosen "$port"; do port=$((20000 + RANDOM % 10000)); done
  PORT[$name]=$port
}

# ask PORT BYTES COUNT: sends BYTES (with \x escapes), prints the first COUNT bytes of the answer in hexadecimal.
# Fails when nobody listens; prints less when the answer does not come within 2 s.
ask() (
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf '%b' "$2" >&3 || return 1
  timeout 2 head -c "$3" <&3 | od -An -v -tx1 | tr -d ' \n'
) 2>/dev/null
