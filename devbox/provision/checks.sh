# The checks, one after the other, told over the connection itself. Each is a process group of its own that ends with
# it, and writes to a file: nothing that a check leaves behind can hold the connection or speak in another's place.
frame() { printf '%s %s\n' "$nonce" "$*"; }

kept=$(mktemp -d) || exit 1
trap 'cd /; rm -rf "$kept"' EXIT
trap 'exit 1' HUP INT PIPE TERM

try() {
  # shellcheck disable=SC2034 # for `become`
  (umask 022; session=1; become "$user" sh -c "$command") </dev/null >"$kept/output" 2>&1 &
  tried=$!
  limited $tried "$timeout" "$kept/late"
  kill -KILL "-$tried" 2>/dev/null
  tail -c 65536 "$kept/output"
}

check() {
  now
  begun=$ms attempt=0 delay=1 outcome=failed
  frame begin "$index" - "$name"
  while
    try
    [ "$result" != 0 ] && [ $attempt -lt "$retries" ]
  do
    attempt=$((attempt + 1))
    frame retry "$index" $attempt "$result"
    sleep $delay
    [ $delay -gt 30 ] || delay=$((delay * 2))
  done
  now
  [ "$result" != 0 ] || outcome=passed
  frame end "$index" $outcome "$result" $((ms - begun))
}
