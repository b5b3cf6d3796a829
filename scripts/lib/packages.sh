# shellcheck shell=bash
# Installs what is missing from Debian: only as root, only what was asked for, and without starting Debian's own services.

POLICY=/usr/sbin/policy-rc.d

# require_packages PACKAGE…: those that the caller found missing. Not root: one line that names them.
require_packages() {
  (($#)) || return 0
  command -v apt-get >/dev/null || die_unavailable "missing, and this is not Debian: whatever holds the Debian packages $*"
  is_root || die_unavailable "missing packages, please run: sudo apt-get install --no-install-recommends $*"
  local log=$CACHE/apt.log
  say "installing $* (log: $log)"
  (
    keep_services_down
    apt_get install "$@" || { apt_get update && apt_get install "$@"; }
  ) >"$log" 2>&1 || die "apt-get could not install $*: $(grep -m1 '^E:' "$log" || echo no reason given), see $log"
}

apt_get() {
  local command=$1
  shift
  local options=(-q -y -o DPkg::Lock::Timeout=300)
  [[ $command == install ]] && options+=(--no-install-recommends)
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$command" "$@" </dev/null
}

# keep_services_down: Debian starts a server as soon as its package is installed, unless policy-rc.d says 101. Ours says so
# until this (sub)shell ends; a policy that was there before comes back, and one that already says so stays untouched.
keep_services_down() {
  local verdict=0 previous=$POLICY.before-trigger-dispatcher
  if [[ -x $POLICY ]]; then
    "$POLICY" redis-server start || verdict=$?
    ((verdict != 101)) || return 0
    mv "$POLICY" "$previous"
    trap 'mv "$POLICY.before-trigger-dispatcher" "$POLICY"' EXIT
  else
    trap 'rm -f "$POLICY"' EXIT
  fi
  trap 'exit 130' INT
  trap 'exit 143' TERM
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}
