# The apply run, detached from the connection: for each step probe, act if it differs, probe again, and write the
# receipt. Comes after the prelude and the settings of the run; a block of settings and `step` follow for each step.
frame() { printf '%s %s\n' "$nonce" "$*" >>"$run/events"; }

# Sets actual and seen (the probe's own status) for the step of this moment.
look() {
  # The redirections stand within, since bash forgets the status of an assignment that has some.
  actual=$({ stats='' hashes='' packages='' candidates='' units='' passwd='' groups='' && load && probe; } </dev/null 2>/dev/null)
  seen=$?
}

is_same() { [ $seen = 0 ] && [ "$actual" = "$expected" ]; }

# Whether something that this step needs has changed since this step's own last success; only some kinds act on it.
find_trigger() {
  triggered=''
  wanted_needs=''
  own_recorded=$recorded own_change=$change own_needed=$needed own_booted=$booted
  for need in $needs; do
    receipt "$need"
    [ -n "$change" ] || continue
    wanted_needs="$wanted_needs$need:$change "
    case $own_needed in *" $need:$change "*) ;; *) triggered=$restarts ;; esac
  done
  recorded=$own_recorded change=$own_change needed=$own_needed booted=$own_booted
}

# Whether an earlier run was cut off between this step's work and its receipt. A mark whose change the receipt has is
# spent: only the end of its run was lost.
find_pending() {
  pending='' value=''
  [ -e "$journal/$key.pending" ] || return 0
  read -r value <"$journal/$key.pending"
  [ -n "$value" ] && [ "$value" = "$change" ] || pending=1
}

# One attempt. Its time limit ends the step's whole session with TERM, 10 s later with KILL; what has left that session
# by a `setsid` of its own escapes, as it would from any shell, but holds nothing up: output goes to a file.
perform() {
  case $nl$actual in
    *"${nl}unless=did not end"*) printf '`unless` %s, so it counts as not succeeding.\n' "${actual##*unless=}" >>"$log" ;;
  esac
  if [ "$user" != root ]; then
    chown -R "$user" "$files"
    [ ! -d "$incoming" ] || chown -R "$user" "$incoming"
    [ -z "$secret_names" ] || chown -R "$user" "$run/$index.secrets"
  fi
  (
    exec 9>&-
    umask 022
    session=$timeout  # a group of its own is there to be ended as a whole
    secrets=${secret_names:+$run/$index.secrets}
    work
  ) </dev/null >>"$log" 2>&1 &
  limited $! "$timeout" "$run/late.$index"
}

# Our own script has found that it needs files which were not sent with this run.
is_stale() { [ "$result" = 75 ] && [ -n "$ours" ]; }

attempts() {
  attempt=0 delay=1
  while :; do
    perform
    [ "$result" != 0 ] && [ $attempt -lt "$retries" ] && ! is_stale || return 0
    attempt=$((attempt + 1))
    frame retry "$index" $attempt "$result"
    sleep $delay
    delay=$((delay * 2))
  done
}

# Our own script, without the start of another shell.
inside() {
  cd /
  export HOME=/root USER=root LOGNAME=root SHELL=/bin/sh
  environment
  set -e
  set -- "$triggered"
  . "$files/script"
  exit 0
}

# The effect of a command must not be less durable than the note that it is done, and the note must last, or it would
# run again. A state is read again anyway: its receipts become durable together, at the end of the run, and until then
# the `pending` marks say that they are owed.
record() {
  aside=$journal/.$key
  now
  {
    printf 'step=%s\nname=%s\ndigest=%s\nchange=%s\n' "$key" "$name" "$wanted" "$change"
    for need in $wanted_needs; do field need "$need"; done
    field boot "$boot"
    field ms $((ms - begun))
    field finished $((epoch + (ms - started) / 1000))
  } >"$aside" || return 1
  [ -z "$action" ] || sync
  mv -f "$aside" "$journal/$key" || return 1
  [ -z "$action" ] || sync "$journal/$key" 2>/dev/null || sync
  spent="$spent $journal/$key.pending"
}

# A section of `field=value` lines: what the step found, or what it left.
state_section() {
  frame "$1" "$index" $seen
  [ -z "$actual" ] || printf '%s\n' "$actual" >>"$run/events"
}

# What a step with secrets has said goes from memory to the disk without them.
keep_log() {
  kept=$logs/$slug.log
  if have awk && tr -d '\000' <"$log" | LC_ALL=C awk -v list="$run/$index.forms" -f "$run/redact.awk" >"$kept"; then :
  else echo 'devbox keeps no output of this step: its secrets cannot be taken out of it without a working awk.' >"$kept"
  fi
  rm -f "$log"
}

finish() {
  [ -z "$secret_names" ] || rm -rf "$run/$index.secrets" "$run/$index.forms"
  now
  frame end "$index" "$1" "$result" $((ms - begun))
  case $1 in failed | stale) failed=1 ;; esac
}

act() {
  change=$id.$index
  state_section before
  was_same='' before=$actual
  if is_same; then was_same=1; fi
  printf '%s\n' "$change" >"$journal/$key.pending"
  log=$logs/$slug.log
  if [ -n "$sensitive" ]; then rm -f "$log"; log=/dev/null
  elif [ -n "$secret_names" ]; then : >"$log"; log=$run/$slug.log; fi
  : >"$log"
  frame begin "$index" "$log" "$name"
  attempts
  if [ -n "$secret_names" ]; then
    rm -rf "$run/$index.secrets"
    [ -n "$sensitive" ] || keep_log
  fi
  if is_stale; then
    [ -n "$pending" ] || spent="$spent $journal/$key.pending"  # it has not begun
    finish stale
    return
  fi
  if [ "$result" != 0 ]; then finish failed; return; fi
  # It says itself that there was nothing to do: then nothing that needs it runs again.
  unchanged=''
  if [ -e "$files/unchanged" ]; then
    unchanged=1 change=${own_change:-$change}
    printf '%s\n' "$change" >"$journal/$key.pending"
  fi
  recorded=$wanted fresh=1
  look
  if ! is_same; then state_section after; result=differs; finish failed; return; fi
  if [ -n "$was_same" ] && [ -z "$action$triggered$pending" ]; then
    spent="$spent $journal/$key.pending"
    finish same
    return
  fi
  if ! record; then result=receipt; finish failed
  elif [ -n "$unchanged" ]; then finish same
  else finish changed; fi
}

step() {
  [ -z "$failed" ] || return 0
  now
  begun=$ms files=$run/$index incoming=$state/incoming/$id/$index fresh='' result=0
  receipt "$key"
  find_trigger
  find_pending
  if ! condition; then finish unmet; return; fi
  if [ "$when" = once ] && [ -n "$recorded" ] && [ -z "$force" ]; then finish same; return; fi
  look
  if [ $seen = 10 ]; then state_section before; finish skipped; return; fi
  # What was cut off may have done a part of its work only, and the state may show no more than that part.
  if ! is_same || [ -n "$force$triggered$pending" ] || is_due; then act; return; fi
  if [ "$when" = once ] && [ -z "$recorded" ]; then
    change=$id.$index
    record || { result=receipt; finish failed; return; }
  fi
  finish same
}

# A state is read in each run anyway; only what goes by its receipt is due again by the clock of `when`.
is_due() {
  [ -n "$action" ] || return 1
  case $when in always) ;; boot) [ "$booted" != "$boot" ] ;; *) return 1 ;; esac
}

# Sets sectors: how much this guest has written to its disks since it was started.
count_written() {
  sectors=0
  set +f
  for stat in /sys/block/[hsv]d*/stat /sys/block/xvd*/stat /sys/block/nvme*/stat; do
    [ -r "$stat" ] && read -r _ _ _ _ _ _ count _ <"$stat" && sectors=$((sectors + count)) || :
  done
  set -f
}

begin_gates() { now; count_written; gate_ms=$ms gate_sectors=$sectors; }

# A point at which this computer may freeze the disk: after much work, with every receipt so far durable. Goes on when it
# says so, or by itself when it does not; then, and where it says so, there are no more gates.
gate() {
  [ -z "$failed" ] && [ ! -e "$run/open.all" ] || return 0
  now
  count_written
  [ $((ms - gate_ms)) -ge "$gate_after" ] || [ $((sectors - gate_sectors)) -ge "$gate_written" ] || return 0
  sync
  [ -z "$spent" ] || { rm -f $spent; spent=''; sync; }
  frame gate "$index"
  now
  patience=$((ms + gate_patience))
  while [ ! -e "$run/open.$index" ] && [ ! -e "$run/open.all" ]; do
    [ "$ms" -lt "$patience" ] || : >"$run/open.all"
    sleep 0.1 2>/dev/null || sleep 1
    now
  done
  begin_gates
}
