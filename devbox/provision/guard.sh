# Whether commands of the user's succeed, each within a time limit. One watcher for all guards of a shell, so that a guard
# costs no process beyond its own. The watcher is a program of its own, since a forked shell would keep descriptors that this
# one has put aside, and with them the connection. `watcher` is its text, guards.sh.
guard_limit=60  # seconds
watched=''

# guard USER TEXT: 0 when it succeeds, 1 when it does not, 124 when its time ran out, which $late then says.
# Without the lock of the run, which what it leaves in the background would hold.
guard() {
  read -r guard_shell guard_rest </proc/self/stat  # $$ is that of the main shell, even in a subshell
  if [ "$watched" != "$guard_shell" ]; then
    watched=$guard_shell
    sh -c "$watcher" watcher "$guard_shell" $guard_limit </dev/null >/dev/null 2>&1 9>&- &
  fi
  [ -n "$uid" ] || uid=$(id -u)  # else each guard would ask again
  late='' guard_status=''
  now
  guard_begun=$ms
  (umask 022 && session='' && become "$1" sh -c "$2") </dev/null >/dev/null 2>&1 9>&- &
  # What this descriptor leads to tells the watcher which guard goes on. It fails to open for one that has ended.
  { { wait $!; guard_status=$?; } 8<"/proc/$!/stat"; } 2>/dev/null || :
  [ -n "$guard_status" ] || { wait $!; guard_status=$?; }
  [ "$guard_status" != 0 ] || return 0
  if [ "$guard_status" = 137 ]; then
    now
    if [ $((ms - guard_begun)) -ge $((guard_limit * 1000)) ]; then late="did not end within $guard_limit s"; return 124; fi
  fi
  return 1
}
