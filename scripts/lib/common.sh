# shellcheck shell=bash
# Where everything lives, how we speak and how we wait. Sourced by scripts/services and scripts/test.
# shellcheck disable=SC2034 # what is set here is read there

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
SCRIPTS=$CHECKOUT/scripts

# Caches that any clone may reuse; each holds the hash of what it was made from in its name.
CACHE=${XDG_CACHE_HOME:-~/.cache}/trigger-dispatcher

# Data, logs and pids of this checkout's services. Not inside the checkout: PostgreSQL refuses to run as root, and its own
# user may not be able to enter the folder that the checkout is in.
CHECKOUT_KEY=$(printf '%s' "$CHECKOUT" | sha256sum | cut -c1-10)
SERVICES_DIR=$(realpath -m "${TRIGGER_DISPATCHER_SERVICES:-${TMPDIR:-/tmp}/trigger-dispatcher-$CHECKOUT_KEY}")

# Exit codes of sysexits.h: wrong usage, and something that must be installed first.
EXIT_USAGE=64
EXIT_UNAVAILABLE=69

say() { printf '%s\n' "$*" >&2; }

die() {
  say "${0##*/}: $*"
  exit 1
}

die_unavailable() {
  say "${0##*/}: $*"
  exit "$EXIT_UNAVAILABLE"
}

is_root() { ((EUID == 0)); }

# wait_until SECONDS COMMAND…: polls until the command succeeds; fails when the time is over.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# seconds_since START: START as $EPOCHREALTIME gave it; with one decimal.
seconds_since() {
  local now=$EPOCHREALTIME
  local tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

hash_of() { sha256sum | cut -c1-12; }

# lock FD FILE WHAT: holds the lock until this process ends. Services are started without the descriptor (process.sh).
lock() {
  local fd=$1 file=$2 what=$3
  eval "exec $fd>>\"\$file\"" || die "cannot write $file"
  flock --nonblock "$fd" && return
  say "waiting for another process that is $what…"
  flock --timeout 600 "$fd" || die "another process has been $what for 10 minutes (lock: $file)"
}

# open_services_dir: makes the folder, or makes sure that it is one of ours: `down --wipe` removes it whole.
open_services_dir() {
  if [[ ! -e $SERVICES_DIR ]]; then
    { mkdir -p "$(dirname "$SERVICES_DIR")" && mkdir -m 755 "$SERVICES_DIR"; } || die "cannot make $SERVICES_DIR"
    printf '%s\n' "$CHECKOUT" >"$SERVICES_DIR/checkout"
  fi
  [[ -O $SERVICES_DIR && -f $SERVICES_DIR/checkout ]] ||
    die "$SERVICES_DIR is not a folder that scripts/services made for you; name another in TRIGGER_DISPATCHER_SERVICES"
}
