# Shows a run's events, and each step's output from its log, until the run has ended. The offsets live in this
# shell's descriptors, which `cat` shares, so nothing is shown twice and nothing is lost between two looks.
frame() { printf '%s %s\n' "$nonce" "$*"; }

follow() {
  [ -r "$run/events" ] || return 1
  exec 3<"$run/events"
  turn=0 shown=''
  while :; do
    # Asked before the look, so that what was written before the end is seen after it.
    gone=''
    is_running || gone=1
    while IFS= read -r line <&3; do
      case $line in
        "$nonce begin "*)
          printf '%s\n' "$line"
          log=${line#* begin * } log=${log%% *}
          if [ -r "$log" ]; then exec 4<"$log"; shown=1; fi
          ;;
        "$nonce end "*)
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
