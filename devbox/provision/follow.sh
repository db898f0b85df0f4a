# Shows a run's events, and each step's output from its log, until the run has ended. The offsets live in this
# shell's descriptors, which `cat` shares, so nothing is shown twice and nothing is lost between two looks.
attached=''
frame() { printf '%s %s\n' "$nonce" "$*"; }

# It may vanish at any moment; `command`, or the shell would end with it.
open_log() { { command exec 4<"$1"; } 2>/dev/null; }

follow() {
  [ -r "$run/events" ] || return 1
  exec 3<"$run/events"
  turn=0 shown='' raw=''
  while :; do
    # Asked before the look, so that what was written before the end is seen after it.
    gone=''
    is_running || gone=1
    while IFS= read -r line <&3; do
      case $line in
        "$nonce begin "*)
          printf '%s\n' "$line"
          log=${line#* begin * } log=${log%% *} raw=''
          # In the run's folder, that of a step with secrets: until the step's end, which takes them out and leaves the
          # rest among the other logs. Who joins later may not know the secrets, and waits for that.
          case $attached$log in
            "1$run/"*) raw=$logs/${log##*/} ;;
            *) if open_log "$log" || open_log "$logs/${log##*/}"; then shown=1; fi ;;
          esac
          ;;
        "$nonce end "*)
          if [ -n "$raw" ]; then cat "$raw" 2>/dev/null; raw=''; fi
          if [ -n "$shown" ]; then cat <&4; exec 4<&-; shown=''; fi
          printf '%s\n' "$line"
          ;;
        *) printf '%s\n' "$line" ;;
      esac
    done
    [ -z "$shown" ] || cat <&4
    [ -z "$gone" ] || break
    # Often at first, for the short steps; then twice a second, since each look is two forks.
    turn=$((turn + 1))
    if [ $turn -lt 10 ]; then sleep 0.1 2>/dev/null || sleep 1; else sleep 0.5 2>/dev/null || sleep 1; fi
    [ $((turn % 10)) != 0 ] || frame tick
  done
  [ ! -e "$run/errors" ] || { frame lost; cat "$run/errors"; }
}
