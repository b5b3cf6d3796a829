# shellcheck shell=bash
# Starts a service in the background and knows it again later. Never signals a process that it cannot prove to be the one
# that it started: a pid alone may have been given to a stranger, so its start time (in clock ticks since boot) is kept too.

pid_file() { printf '%s' "$SERVICES_DIR/$1.pid"; }
log_file() { printf '%s' "$SERVICES_DIR/$1.log"; }

# launch NAME COMMAND…: a session of its own, no terminal, no inherited lock; output goes to NAME.log.
launch() {
  local name=$1
  shift
  forget "$name"
  (
    # It signs in by itself, before it becomes the service: whoever interrupts us leaves no service behind that nobody knows.
    sign_in "$name"
    # The user that PostgreSQL runs as may not be allowed to stand where we stand.
    cd "$SERVICES_DIR" && exec setsid "$@"
  ) </dev/null >>"$(log_file "$name")" 2>&1 8>&- 9>&- &
  wait_until 10 test -s "$(pid_file "$name")" || die "cannot start $name, see $(log_file "$name")"
}

sign_in() {
  start_time "$BASHPID" >"$SERVICES_DIR/$1.start-time"
  printf '%s\n' "$BASHPID" >"$(pid_file "$1").new"
  mv "$(pid_file "$1").new" "$(pid_file "$1")"
}

# start_time PID: fails for a process that is gone, or dead and not yet reaped.
start_time() {
  local stat
  local threads=("/proc/$1/task/"*)
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # The second field is the program's name in brackets and may itself hold blanks and brackets: count from behind it.
  read -ra stat <<<"${stat##*) }"
  # The first thread of a killed process is a zombie already while others still hold its ports.
  [[ ${stat[0]} != [ZX] || ${#threads[@]} -gt 1 ]] && printf '%s\n' "${stat[19]}"
}

# live_pid NAME: prints the pid of the service if it is the very process that we started.
live_pid() {
  local pid recorded now
  [[ -s $(pid_file "$1") && -s $SERVICES_DIR/$1.start-time ]] || return 1
  pid=$(<"$(pid_file "$1")")
  recorded=$(<"$SERVICES_DIR/$1.start-time")
  now=$(start_time "$pid") && [[ $now == "$recorded" ]] && printf '%s\n' "$pid"
}

is_alive() { live_pid "$1" >/dev/null; }
is_gone() { ! start_time "$1" >/dev/null; }

forget() { rm -f "$(pid_file "$1")" "$SERVICES_DIR/$1.start-time"; }

# descendants PID: children, their children, and so on.
descendants() {
  local children child
  mapfile -t children < <(awk -v parent="$1" '{ pid = $1; sub(/^.*\) /, ""); if ($2 == parent) print pid }' /proc/[0-9]*/stat 2>/dev/null)
  for child in "${children[@]}"; do
    printf '%s\n' "$child"
    descendants "$child"
  done
}

# terminate NAME SIGNAL: asks the service to end, and insists after 30 s.
terminate() {
  local name=$1 signal=$2 pid
  pid=$(live_pid "$name") || {
    forget "$name"
    return 0
  }
  kill -s "$signal" "$pid"
  # A process stopped by SIGSTOP would never see the request.
  kill -s CONT "$pid"
  if ! wait_until 30 is_gone "$pid"; then
    say "$name (pid $pid) did not end within 30 s after SIG$signal: killing it, see $(log_file "$name")"
    crash "$name"
  fi
  forget "$name"
}

# crash NAME: SIGKILL to the service and all that it started, as if the machine had lost power.
crash() {
  local name=$1 pid family
  pid=$(live_pid "$name") || die "$name is not running"
  # Stopped first, so that it cannot start another child between the listing and the kill.
  kill -s STOP "$pid"
  mapfile -t family < <(descendants "$pid")
  kill -s KILL "$pid" || die "cannot kill $name (pid $pid)"
  # Some children end by themselves as soon as their parent is gone.
  ((${#family[@]} == 0)) || kill -s KILL "${family[@]}" 2>/dev/null || true
  for pid in "$pid" "${family[@]}"; do
    wait_until 10 is_gone "$pid" || die "$name: pid $pid outlives SIGKILL"
  done
  forget "$name"
}
