# Waits for a command that runs in the background, and ends it with all that it started when its time is over. POSIX sh.

# limited PID SECONDS MARK: its exit status in $result, or `timeout`. With "" for SECONDS there is no limit; with one the
# process must lead a group of its own. MARK is a file that may be made.
limited() {
  dog=''
  if [ -n "$2" ]; then
    # shellcheck disable=SC2016 # for the shell of its own
    setsid sh -c 'sleep "$1"; : >"$2"; kill -TERM "-$3"; sleep 10; kill -KILL "-$3"' dog "$2" "$3" "$1" \
      </dev/null >/dev/null 2>&1 9>&- &
    dog=$!
  fi
  wait "$1"
  result=$?
  # KILL: dash loses a TERM that comes before its child has let go of the traps, and the dog would then sleep to its end.
  # First itself, which may not lead a group yet, and after that its group cannot grow.
  [ -z "$dog" ] || { kill -KILL "$dog"; kill -KILL "-$dog"; wait "$dog"; } 2>/dev/null
  [ ! -e "$3" ] || { rm -f "$3"; kill -KILL "-$1" 2>/dev/null; result=timeout; }
}
