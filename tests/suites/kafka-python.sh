# kafka-python's integration tests, from its source distribution. Needs Python 3.8 or newer with venv.
#
# Left out: test_sasl_integration and test_ssl_integration (they start brokers of their own), offsets_for_time_old
# (brokers before 0.10.1), ACLs (want an authorizer), test_kafka_version_infer (the client's guess of its own setting).

settings=(num.partitions=4 group.min.session.timeout.ms=1000)
limit_s=90
release=3.0.12
src=$dir/kafka_python-$release

install() {
  [ -e "$src/.ready" ] && return
  python3 -m venv "$dir/python" &&
    "$dir/python/bin/pip" --quiet install pytest pytest-mock pytest-timeout py lz4 python-snappy zstandard crc32c &&
    "$dir/python/bin/pip" --quiet download --no-deps --no-binary kafka-python -d "$dir" "kafka-python==$release" &&
    tar xzf "$dir/kafka_python-$release.tar.gz" -C "$dir" || return 1
  # Two files of the test package are not in the distribution; with a broker that runs already nothing of them is used.
  touch "$src/test/__init__.py"
  cat > "$src/test/service.py" << 'SERVICE'
class ExternalService:
    def __init__(self, host, port): self.host, self.port = host, port
    def open(self): pass
    def close(self): pass

class SpawnedService: pass
SERVICE
  touch "$src/.ready"
}

list_cases() {
  sed -n 's|^[A-Z]* kafka-python/||p' "$ROOT/tests/suites/kafka-4.3.1.txt"
}

# Administration and groups; the producer's cases take most of the time.
short_cases() {
  list_cases | grep -E '^(admin|consumer)::' | grep -v transaction
}

# In one process, with verdicts by pytest's ids in the short form admin::test_x[parameter].
judge() { # CASE...
  # The tests and the client assume this version of the broker; from 4.0 on it adds five admin cases.
  export KAFKA_ROOT=$src KAFKA_URI=kafka://$broker KAFKA_VERSION=4.1.0
  local ids
  mapfile -t ids < <(printf '%s\n' "$@" | sed 's|^\([a-z]*\)::|test/integration/test_\1_integration.py::|')
  (cd "$src" && timeout -k 5 3600 "$dir/python/bin/python" -m pytest -p no:cacheprovider -o addopts= -v --color=no \
    --timeout "$limit_s" --timeout-method=signal "${ids[@]}" < /dev/null 2>&1) | tee "$logs/all.log" |
    sed -nuE 's#^test/integration/test_([a-z]*)_integration.py::(.*) (PASSED|FAILED|ERROR|SKIPPED).*%\].*#\3 \1::\2#p' |
    sed -u 's/^PASSED/PASS/; s/^[EFS][A-Z]* /FAIL /' | tee -a /dev/stderr | sort -u > "$result"
}
