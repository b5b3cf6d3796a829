# shellcheck shell=bash
# Apache Kafka from the jars on Maven Central: one KRaft node, plain text, loopback only; a second port asks for a password.

kafka_stop_signal() { echo TERM; }
kafka_start_seconds() { echo 60; }

kafka_jars() { printf '%s/kafka-%s' "$CACHE" "$(hash_of <"$SCRIPTS/kafka/pom.xml")"; }

kafka_missing_packages() {
  local major
  major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
  if ((${major:-0} < 17)); then
    # Later Debians have a later Java only.
    if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then echo openjdk-17-jre-headless; else echo default-jre-headless; fi
  fi
  [[ -d $(kafka_jars) ]] || command -v mvn >/dev/null || echo maven
}

kafka_prepare() {
  local jars log=$CACHE/maven.log new
  jars=$(kafka_jars)
  [[ ! -d $jars ]] || return 0
  say "fetching Apache Kafka from Maven Central (log: $log)"
  new=$(mktemp -d "$CACHE/new-kafka-XXXXXX")
  mvn -B -ntp -Dstyle.color=never -f "$SCRIPTS/kafka/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$new" >"$log" 2>&1 </dev/null || {
    rm -rf "$new"
    die "Maven could not fetch Kafka: $(grep -m1 ERROR "$log" || echo no reason given), see $log"
  }
  # Another clone that was faster made the same thing.
  mv -T "$new" "$jars" 2>/dev/null || rm -rf "$new"
}

kafka_choose_ports() {
  choose_port kafka
  choose_port kafka_sasl
  choose_port kafka_controller
  choose_port kafka_proxied
  choose_port kafka_proxy
}

kafka_start() {
  local data=$SERVICES_DIR/data/kafka config=$SERVICES_DIR/kafka.properties
  # A folder of an older checkout does not know these ports yet.
  local name
  for name in kafka_sasl kafka_proxied kafka_proxy; do
    [[ -n ${PORT[$name]:-} ]] || {
      choose_port "$name"
      save_ports
    }
  done
  sed -e "s|@PORT@|${PORT[kafka]}|g" -e "s|@SASL_PORT@|${PORT[kafka_sasl]}|g" \
    -e "s|@PROXIED_PORT@|${PORT[kafka_proxied]}|g" -e "s|@PROXY_PORT@|${PORT[kafka_proxy]}|g" \
    -e "s|@CONTROLLER_PORT@|${PORT[kafka_controller]}|g" -e "s|@DATA@|$data|g" \
    -e "s|@SESSION_MS@|${KAFKA_BROKER_SESSION_MS:-30000}|g" "$SCRIPTS/kafka/server.properties" >"$config"
  if [[ ! -f $data/meta.properties ]]; then
    rm -rf "$data"
    kafka_java kafka.tools.StorageTool format -t "$(new_cluster_id)" -c "$config" >>"$(log_file kafka)" 2>&1 ||
      die "Kafka could not format its folder, see $(log_file kafka)"
  fi
  launch kafka java "${KAFKA_JAVA_OPTIONS[@]}" "${KAFKA_BROKER_OPTIONS[@]}" -Xms1g -Xmx1g -cp "$(kafka_jars)/*" kafka.Kafka "$config"
}

KAFKA_JAVA_OPTIONS=(-Dlog4j2.configurationFile="$SCRIPTS/kafka/log4j2.properties" -Djava.awt.headless=true -XX:+ExitOnOutOfMemoryError)
# As Kafka's own scripts start a broker: with Java's defaults a collection may stop it for 200 ms.
KAFKA_BROKER_OPTIONS=(-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent)

kafka_java() { java "${KAFKA_JAVA_OPTIONS[@]}" -cp "$(kafka_jars)/*" "$@"; }

# 16 bytes in url-safe base64. The first is a letter, for an id that begins with a dash would be read as an option.
new_cluster_id() { { printf 'T' && head -c 15 /dev/urandom; } | base64 | tr '+/' '-_' | cut -c1-22; }

# A Metadata request (version 1, no topics): Kafka opens its port before it serves. The answer's third number is the count
# of brokers, which stays 0 until the controller has let ours in.
kafka_ready() {
  local answer
  answer=$(ask "${PORT[kafka]}" '\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00' 12) || return 1
  [[ ${#answer} == 24 && ${answer:16} != 00000000 ]]
}

# TEST_KAFKA_PROXY is where clients of a proxy find it and where Kafka sends them back to, TEST_KAFKA_PROXIED what the proxy
# stands before. Nothing listens on the first by itself.
kafka_env() {
  export_line TEST_KAFKA "127.0.0.1:${PORT[kafka]}"
  # A Kafka that an older checkout has brought up has no such listeners.
  [[ -n ${PORT[kafka_proxied]:-} ]] || return 0
  # The listener that asks for a password.
  export_line TEST_KAFKA_SASL "kafka://dispatcher:only-for-tests@127.0.0.1:${PORT[kafka_sasl]}"
  export_line TEST_KAFKA_PROXIED "127.0.0.1:${PORT[kafka_proxied]}"
  export_line TEST_KAFKA_PROXY "127.0.0.1:${PORT[kafka_proxy]}"
}
