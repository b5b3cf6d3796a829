# shellcheck shell=bash
# Instruction counts of the stages that do no IO (benches/instructions), by Valgrind. Sourced by scripts/bench.

count_instructions() {
  mkdir -p "$CACHE" || die "cannot make $CACHE"
  command -v valgrind >/dev/null || require_packages valgrind
  # With what scripts/test builds with, so that one build of all libraries serves both.
  in_background cargo bench --quiet --workspace --features signal-generator/crash-points --bench instructions -- "$@"
}
