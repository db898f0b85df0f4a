# Gives this guest the identity that the words before this text name, whatever it holds now. Root, any POSIX shell.
# What decides who may log in is made aside and synced, then renamed in an order in which a kill at any line leaves a
# guest that one of the two identities can log in to: own login key in, host key, sshd told, the other login key out.
# A program costs an emulated guest 30 to 50 ms, and this is most of a warm start: so the shell does what it can itself.
# What changes anything stands on a line of its own: the tests kill the shell before each.
nl='
'
have() { command -v "$1" >/dev/null 2>&1; }

# put FILE MASK TEXT: in place. Of what is lost when this is cut off, nothing is needed to do it again.
put() {
  umask "$2"
  printf '%s\n' "$3" >"$1"
  umask 077
}

# known FILE WORD: whether the word stands anywhere in the file.
known() {
  [ -f "$1" ] || return 1
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in *"$2"*) return 0 ;; esac
  done <"$1"
  return 1
}

# These files and folders alone where sync can do that: what the steps have written may be a lot more.
write_out() {
  sync "$@" 2>/dev/null || sync
}

set_clock() {
  clock=$(date +%s)
  # What it took to get here looks like a clock that is ahead.
  if [ "$clock" -lt $((now - 1)) ] || [ "$clock" -gt $((now + 60)) ]; then
    $set_time "@$now" >/dev/null || :
  fi
}

# Sets home and owner.
account() {
  home='' owner=''
  if [ -r "$root/etc/passwd" ]; then
    while IFS=: read -r name secret uid gid comment home shell || [ -n "$name" ]; do
      [ "$name" != "$1" ] || { owner=$uid:$gid; break; }
    done <"$root/etc/passwd"
  fi
  if [ -z "$owner" ]; then  # of a directory service
    owner=$(id -u "$1"):$(id -g "$1")
    eval "home=~$1"
  fi
  home=$root$home
}
# authorized FILE: makes aside a list with the own key among the others, and one that has lost the retired.
authorized() {
  both='' last='' own=''
  if [ -f "$1" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      gone=''
      for key in $retired; do
        case $line in *"$key"*) gone=1 ;; esac
      done
      case $line in *"$own_blob"*) own=1 ;; esac
      both=$both$line$nl
      [ -n "$gone" ] || last=$last$line$nl
    done <"$1"
  fi
  [ -n "$own" ] || { both=$both$login_key$nl last=$last$login_key$nl; }
  printf '%s' "$both" >"$1.devbox"
  printf '%s' "$last" >"$1.last.devbox"
}

prepare_keys() {
  account "$user"
  list=$home/.ssh/authorized_keys root_list=''
  [ -d "$home/.ssh" ] || mkdir -p "$home/.ssh"
  authorized "$list"
  chown "$owner" "$home/.ssh" "$list.devbox" "$list.last.devbox"
  for key in $retired; do
    if [ "$user" != root ] && known "$root/root/.ssh/authorized_keys" "$key"; then root_list=$root/root/.ssh/authorized_keys; fi
  done
  [ -z "$root_list" ] || authorized "$root_list"
  printf '%s\n' "$host_key" >"$ssh/ssh_host_ed25519_key.devbox"
}

# The old name's own line becomes the new one's: sudo waits for a resolver when its own host has no address.
prepare_hosts() {
  hosts='' found='' changed=''
  if [ -f "$root/etc/hosts" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      words_of "$line"
      case $words in
        ' #'*) ;;
        *" $hostname "*) found=1 ;;
        ' 127.0.1.1 '*" $before "*) line="127.0.1.1 $hostname" found=1 changed=1 ;;
      esac
      hosts=$hosts$line$nl
    done <"$root/etc/hosts"
  fi
  [ -n "$found" ] || hosts="${hosts}127.0.1.1 $hostname$nl" changed=1
  [ -n "$changed" ] || return 0
  umask 022
  printf '%s' "$hosts" >"$root/etc/hosts.devbox"
  umask 077
}
words_of() {
  set -f
  set -- $1
  set +f
  words=" $* "
}

# cloud-init goes by the id that its last boot had; what it did once for that one, it need not do again for this one.
take_instance() {
  cloud=$root/var/lib/cloud old=''
  [ ! -r "$cloud/data/instance-id" ] || read -r old <"$cloud/data/instance-id" || :
  [ -n "$old" ] || { cloud=''; return 0; }
  if [ "$old" != "$instance" ] && [ -d "$cloud/instances/$old" ]; then
    [ ! -e "$cloud/instances/$instance" ] || rm -rf "$cloud/instances/$instance"
    mv "$cloud/instances/$old" "$cloud/instances/$instance"
  fi
  [ -e "$root/var/lib/cloud/instance/." ] && [ "$old" = "$instance" ] || ln -sfn "/var/lib/cloud/instances/$instance" "$cloud/instance"
  [ ! -e "$cloud/data/previous-hostname" ] || put "$cloud/data/previous-hostname" 022 "$hostname"
  [ ! -e "$root/run/cloud-init/.instance-id" ] || put "$root/run/cloud-init/.instance-id" 022 "$instance"
  put "$cloud/data/previous-instance-id" 022 "$instance"
  put "$cloud/data/instance-id" 022 "$instance"
}
# Its copies of the seed hold the other host key. Its later stages read one of them, so they go when those are over.
forget_seed() {
  [ -n "$cloud" ] || return 0
  cd "$cloud/instances/$instance"
  if [ -e "$root/run/cloud-init/result.json" ] || [ ! -d "$root/run/cloud-init" ]; then
    forget_copies
  else
    later >/dev/null 2>&1 &
  fi
  cd /
}
later() {
  tries=0
  while [ ! -e "$root/run/cloud-init/result.json" ] && [ "$tries" -lt 600 ]; do
    tries=$((tries + 1))
    sleep 1
  done
  forget_copies
}
forget_copies() {
  set -- user-data.txt user-data.txt.i cloud-config.txt obj.pkl
  for folder in "$cloud"/instances/*; do
    [ "$folder" = "$cloud/instances/$instance" ] || set -- "$@" "$folder"
  done
  rm -rf "$@" "$root/run/cloud-init/instance-data-sensitive.json" "$root/run/cloud-init/combined-cloud-config.json"
}

stir() {
  printf "$random" >"$root/dev/urandom" || :
  for file in systemd/random-seed urandom/random-seed misc/random-seed random-seed seedrng/seed.credit seedrng/seed.no-credit; do
    if [ -e "$root/var/lib/$file" ]; then
      printf "$random" >"$root/var/lib/$file"
    fi
  done
  # RNDRESEEDCRNG: now, and not within a minute. Newer kernels have done so, since QEMU told them of the fork.
  [ -d "$root/sys/bus/acpi/drivers/vmgenid" ] || [ -d "$root/sys/bus/platform/drivers/vmgenid" ] ||
    perl -e 'ioctl STDIN, 0x5207, 0' <"$root/dev/urandom" >/dev/null 2>&1 || :
}

forget_leases() {
  set --
  for file in "$root"/var/lib/dhcp/*.leases "$root"/var/lib/dhclient/*.lease* "$root"/var/lib/NetworkManager/*.lease \
    "$root"/var/lib/NetworkManager/secret_key "$root"/var/lib/dhcpcd/*.lease "$root"/var/lib/dhcpcd/duid \
    "$root"/var/lib/dhcpcd/secret "$root"/etc/dhcpcd.duid "$root"/var/lib/systemd/network/*; do
    [ ! -f "$file" ] || set -- "$@" "$file"
  done
  [ $# = 0 ] || rm -f "$@"
}

take_names() {
  put "$root/etc/machine-id" 222 "$machine_id"
  dbus=$root/var/lib/dbus/machine-id
  if [ -f "$dbus" ] && [ ! -L "$dbus" ]; then
    put "$dbus" 222 "$machine_id"
  fi
  [ -n "$hostname" ] || return 0
  # The hosts first: the name tells which of their lines is the old one's.
  [ -z "$changed" ] || mv -f "$root/etc/hosts.devbox" "$root/etc/hosts"
  put "$root/etc/hostname" 022 "$hostname"
}

take_host_key() {
  # sshd wonders about a public key that is of another private one, and can do without.
  : >"$ssh/ssh_host_ed25519_key.pub"
  mv -f "$ssh/ssh_host_ed25519_key.devbox" "$ssh/ssh_host_ed25519_key"
  put "$ssh/ssh_host_ed25519_key.pub" 022 "$host_line"
  set --
  for file in "$ssh"/ssh_host_*; do
    case $file in *_ed25519_key | *_ed25519_key.pub | *'*') ;; *) set -- "$@" "$file" ;; esac
  done
  [ $# = 0 ] || rm -f "$@"
  [ ! -d "$root/sys/fs/selinux" ] || restorecon -F "$ssh/ssh_host_ed25519_key" "$ssh/ssh_host_ed25519_key.pub" || :
}

# The sshd that listens is the topmost one above this shell; it reads its keys again at SIGHUP, and drops no session.
tell_sshd() {
  pid=$$ listener=''
  while [ "$pid" -gt 1 ] && [ -r "$root/proc/$pid/status" ]; do
    name='' parent=0
    while read -r word value rest; do
      case $word in Name:) name=$value ;; PPid:) parent=$value; break ;; esac
    done <"$root/proc/$pid/status"
    case $name in sshd*) listener=$pid ;; esac
    pid=$parent
  done
  if [ -n "$listener" ] && known "$root/proc/$listener/cmdline" '[priv]'; then listener=''; fi
  if [ -z "$listener" ] && [ -r "$root/run/sshd.pid" ]; then read -r listener <"$root/run/sshd.pid" || :; fi
  if [ -n "$listener" ]; then
    kill -HUP "$listener" && return 0
  fi
  if [ -d "$root/run/systemd/system" ]; then
    systemctl reload sshd 2>/dev/null || systemctl reload ssh 2>/dev/null || :
  elif have rc-service; then
    rc-service sshd reload || :
  fi
}
tell_others() {
  [ -z "$hostname" ] || [ ! -e "$root/proc/sys/kernel/hostname" ] || printf '%s\n' "$hostname" >"$root/proc/sys/kernel/hostname"
  [ ! -d "$root/run/systemd/system" ] || systemctl --no-block try-restart systemd-journald rsyslog avahi-daemon >/dev/null 2>&1 || :
}

main() {
  ssh=$root/etc/ssh
  own_blob=${login_key#* }
  own_blob=${own_blob%% *}
  before='' changed=''
  [ ! -r "$root/etc/hostname" ] || read -r before <"$root/etc/hostname" || :
  [ -n "$hostname" ] || hostname=$before
  set_clock
  prepare_keys
  [ -z "$hostname" ] || prepare_hosts
  set -- "$list.devbox" "$list.last.devbox" "$ssh/ssh_host_ed25519_key.devbox"
  [ -z "$root_list" ] || set -- "$@" "$root_list.devbox" "$root_list.last.devbox"
  [ -z "$changed" ] || set -- "$@" "$root/etc/hosts.devbox"
  write_out "$@"
  mv -f "$list.devbox" "$list"
  [ -z "$root_list" ] || mv -f "$root_list.devbox" "$root_list"
  take_names
  stir
  forget_leases
  take_instance
  take_host_key
  tell_sshd
  tell_others
  forget_seed
  [ -z "$root_list" ] || mv -f "$root_list.last.devbox" "$root_list"
  mv -f "$list.last.devbox" "$list"
  # Everything before the machine is called renewed: a power cut must not bring back what nobody has a key for any more.
  set -- "$list" "${list%/*}" "$ssh/ssh_host_ed25519_key" "$ssh/ssh_host_ed25519_key.pub" "$ssh" "$root/etc/machine-id" "$root/etc"
  [ ! -e "$root/etc/hostname" ] || set -- "$@" "$root/etc/hostname"
  [ -z "$cloud" ] || set -- "$@" "$cloud/data/instance-id" "$cloud/data" "$cloud"
  write_out "$@"
}
