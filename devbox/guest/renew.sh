# Gives this guest the identity that the words before this text name, whatever it holds now. Root, any POSIX shell.
# Everything is made aside first and synced, then renamed in an order in which a kill at any line leaves a guest that
# one of the two identities can log in to: own login key in, host key, sshd told, and last the other login key out.
# What changes anything stands on a line of its own: the tests kill the shell before each.

have() { command -v "$1" >/dev/null 2>&1; }

# aside FILE MODE <TEXT, then commit FILE. What is mounted over another file cannot be replaced, only written.
aside() {
  cat >"$1.devbox"
  chmod "$2" "$1.devbox"
}
commit() {
  [ ! -e "$1.devbox" ] || mv -f "$1.devbox" "$1" 2>/dev/null || cat "$1.devbox" >"$1"
  rm -f "$1.devbox"
}

# known FILE WORD: whether the word stands anywhere in the file.
known() {
  [ -f "$1" ] || return 1
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in *"$2"*) return 0 ;; esac
  done <"$1"
  return 1
}
# kept FILE: its lines without the retired keys.
kept() {
  [ -f "$1" ] || return 0
  while IFS= read -r line || [ -n "$line" ]; do
    for key in $retired; do
      case $line in *"$key"*) continue 2 ;; esac
    done
    printf '%s\n' "$line"
  done <"$1"
}
holds_retired() {
  for key in $retired; do
    ! known "$1" "$key" || return 0
  done
  return 1
}

# authorized NAME FILE: aside, a list with the own key among the others, and one that has lost the retired.
authorized() {
  mkdir -p "${2%/*}"
  { [ ! -f "$2" ] || cat "$2"; echo; known "$2" "$own_blob" || printf '%s\n' "$login_key"; } | sed '/^$/d' | aside "$2" 600
  { kept "$2"; known "$2" "$own_blob" || printf '%s\n' "$login_key"; } | aside "$2.last" 600
  owner=$(id -u "$1"):$(id -g "$1")
  chown "$owner" "${2%/*}" "$2.devbox" "$2.last.devbox"
}
home_of() {
  eval "home=~$1"
  home=$root$home
}

set_clock() {
  clock=$(date +%s)
  # What it took to get here looks like a clock that is ahead.
  if [ "$clock" -lt $((now - 1)) ] || [ "$clock" -gt $((now + 60)) ]; then
    $set_time "@$now" >/dev/null || :
  fi
}

prepare_keys() {
  home_of "$user"
  list=$home/.ssh/authorized_keys
  authorized "$user" "$list"
  root_list=$root/root/.ssh/authorized_keys
  [ "$user" != root ] || root_list=''
  [ -z "$root_list" ] || holds_retired "$root_list" || root_list=''
  [ -z "$root_list" ] || authorized root "$root_list"
  printf '%s\n' "$host_key" | aside "$ssh/ssh_host_ed25519_key" 600
  printf '%s\n' "$host_line" | aside "$ssh/ssh_host_ed25519_key.pub" 644
}

prepare_names() {
  printf '%s\n' "$machine_id" | aside "$root/etc/machine-id" 444
  dbus=$root/var/lib/dbus/machine-id
  if [ -f "$dbus" ] && [ ! -L "$dbus" ]; then printf '%s\n' "$machine_id" | aside "$dbus" 444; fi
  before=''
  [ ! -r "$root/etc/hostname" ] || read -r before <"$root/etc/hostname" || :
  [ -n "$hostname" ] || hostname=$before
  [ -n "$hostname" ] || return 0
  printf '%s\n' "$hostname" | aside "$root/etc/hostname" 644
  hosts | aside "$root/etc/hosts" 644
}
# The old name's own line becomes the new one's: sudo waits for a resolver when its own host has no address.
hosts() {
  found=''
  if [ -f "$root/etc/hosts" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      words_of "$line"
      case $words in
        ' #'*) ;;
        *" $hostname "*) found=1 ;;
        ' 127.0.1.1 '*" $before "*) line="127.0.1.1 $hostname" found=1 ;;
      esac
      printf '%s\n' "$line"
    done <"$root/etc/hosts"
  fi
  [ -n "$found" ] || printf '127.0.1.1 %s\n' "$hostname"
}
words_of() {
  set -f
  set -- $1
  set +f
  words=" $* "
}

# cloud-init goes by the id that its last boot had; what it did once for that one, it need not do again for this one.
prepare_instance() {
  cloud=$root/var/lib/cloud
  old=$(readlink "$cloud/instance") || old=''
  old=${old##*/}
  [ -n "$old" ] && [ -d "$cloud/instances/$old" ] || { cloud=''; return 0; }
  [ "$old" != "$instance" ] || return 0
  rm -rf "$cloud/instances/$instance"
  cp -a "$cloud/instances/$old" "$cloud/instances/$instance"
}
commit_instance() {
  [ -n "$cloud" ] || return 0
  ln -sfn "/var/lib/cloud/instances/$instance" "$cloud/instance"
  for name in instance-id previous-instance-id; do
    printf '%s\n' "$instance" | aside "$cloud/data/$name" 644
    commit "$cloud/data/$name"
  done
  [ ! -e "$cloud/data/previous-hostname" ] || printf '%s\n' "$hostname" >"$cloud/data/previous-hostname"
  [ ! -e "$root/run/cloud-init/.instance-id" ] || printf '%s\n' "$instance" >"$root/run/cloud-init/.instance-id"
  for folder in "$cloud"/instances/*; do
    [ "$folder" = "$cloud/instances/$instance" ] || rm -rf "$folder"
  done
}
# Its copies of the seed hold the other host key. Its later stages read one of them, so they go when those are over.
forget_seed() {
  [ -n "$cloud" ] || return 0
  here=$cloud/instances/$instance run=$root/run/cloud-init
  copies="user-data.txt user-data.txt.i cloud-config.txt obj.pkl"
  rm -f "$here/user-data.txt" "$here/user-data.txt.i"
  [ -d "$run" ] || { (cd "$here" && rm -f $copies); return 0; }
  (
    tries=0
    while [ ! -e "$run/result.json" ] && [ "$tries" -lt 600 ]; do
      tries=$((tries + 1))
      sleep 1
    done
    cd "$here" && rm -f $copies "$run/instance-data-sensitive.json" "$run/combined-cloud-config.json"
  ) >/dev/null 2>&1 &
}

stir() {
  printf "$random" >"$root/dev/urandom" || :
  for file in systemd/random-seed urandom/random-seed misc/random-seed random-seed seedrng/seed.credit seedrng/seed.no-credit; do
    if [ -e "$root/var/lib/$file" ]; then
      printf "$random" | aside "$root/var/lib/$file" 600
      commit "$root/var/lib/$file"
    fi
  done
  # RNDRESEEDCRNG: now, and not within a minute.
  perl -e 'ioctl STDIN, 0x5207, 0' <"$root/dev/urandom" >/dev/null 2>&1 || :
}

forget_leases() {
  for file in "$root"/var/lib/dhcp/*.leases "$root"/var/lib/dhclient/*.lease* "$root"/var/lib/NetworkManager/*.lease \
    "$root"/var/lib/NetworkManager/secret_key "$root"/var/lib/dhcpcd/*.lease "$root"/var/lib/dhcpcd/duid \
    "$root"/var/lib/dhcpcd/secret "$root"/etc/dhcpcd.duid "$root"/var/lib/systemd/network/*; do
    [ ! -f "$file" ] || rm -f "$file"
  done
}

take_host_key() {
  # sshd wonders about a public key that is of another private one, and can do without it.
  rm -f "$ssh/ssh_host_ed25519_key.pub"
  commit "$ssh/ssh_host_ed25519_key"
  commit "$ssh/ssh_host_ed25519_key.pub"
  for file in "$ssh"/ssh_host_*; do
    case $file in *_ed25519_key | *_ed25519_key.pub) ;; *) rm -f "$file" ;; esac
  done
  ! have restorecon || restorecon -F "$ssh/ssh_host_ed25519_key" "$ssh/ssh_host_ed25519_key.pub" || :
}

# The sshd that listens is the topmost one above this shell; it reads its keys again at SIGHUP, and drops no session.
tell_sshd() {
  pid=$$ listener=''
  while [ "$pid" -gt 1 ] && [ -r "$root/proc/$pid/status" ]; do
    name='' parent=0
    while read -r word value rest; do
      case $word in Name:) name=$value ;; PPid:) parent=$value ;; esac
    done <"$root/proc/$pid/status"
    case $name in sshd*) listener=$pid ;; esac
    pid=$parent
  done
  if [ -n "$listener" ] && known "$root/proc/$listener/cmdline" '[priv]'; then listener=''; fi
  if [ -z "$listener" ] && [ -r "$root/run/sshd.pid" ]; then read -r listener <"$root/run/sshd.pid" || :; fi
  if [ -n "$listener" ]; then kill -HUP "$listener" && return 0; fi
  if [ -d "$root/run/systemd/system" ]; then
    systemctl reload sshd 2>/dev/null || systemctl reload ssh 2>/dev/null || :
  elif have rc-service; then
    rc-service sshd reload || :
  fi
}
tell_others() {
  [ -n "$hostname" ] && printf '%s\n' "$hostname" >"$root/proc/sys/kernel/hostname" || :
  [ ! -d "$root/run/systemd/system" ] || systemctl --no-block try-restart systemd-journald rsyslog avahi-daemon >/dev/null 2>&1 || :
}

main() {
  ssh=$root/etc/ssh
  own_blob=${login_key#* }
  own_blob=${own_blob%% *}
  set_clock
  prepare_keys
  prepare_names
  prepare_instance
  sync
  commit "$list"
  [ -z "$root_list" ] || commit "$root_list"
  commit "$root/etc/machine-id"
  commit "$root/var/lib/dbus/machine-id"
  commit "$root/etc/hosts"  # before the name that tells which of its lines is the old one's
  commit "$root/etc/hostname"
  stir
  forget_leases
  commit_instance
  take_host_key
  tell_sshd
  tell_others
  forget_seed
  sync
  [ -z "$root_list" ] || mv -f "$root_list.last.devbox" "$root_list"
  mv -f "$list.last.devbox" "$list"
  sync
}
