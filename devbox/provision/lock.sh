# One run at a time in a guest. flock's lock is free as soon as its holder dies; without flock (a BusyBox built
# small) a folder with the holder's pid stands in. Both lie on a file system that a reboot empties.
is_held() {
  if have flock; then
    (exec 9>>"$base/lock" && ! flock -n 9)
  else
    [ -d "$base/held" ] && read -r holder <"$base/held/pid" && kill -0 "$holder" 2>/dev/null
  fi
}

take_lock() {
  if have flock; then
    exec 9>>"$base/lock"
    flock -n 9
  else
    ! is_held && rm -rf "$base/held" && mkdir "$base/held" && printf '%s\n' $$ >"$base/held/pid"
  fi
}
