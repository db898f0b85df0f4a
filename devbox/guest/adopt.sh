# Appended to assignments of: user uid gid shell groups key name whole_name mac (see adopt.py). Run by root's sh, again
# from the start when an earlier run was cut off: so each part looks first, and files get their names when complete.
set -eu
umask 022

put() { # FILE MODE: stdin becomes FILE
  cat >"$1.new"
  chmod "$2" "$1.new"
  mv -f "$1.new" "$1"
}

# The group first, since useradd would choose its number. -o: the number may be another group's.
grep -q "^$user:" /etc/group || groupadd -o -g "$gid" "$user"
for group in $groups; do
  grep -q "^$group:" /etc/group || groupadd "$group"
done
grep -q "^$user:" /etc/passwd || useradd -m -u "$uid" -g "$user" -s "$shell" "$user"
for group in $groups; do
  case " $(id -nG "$user") " in *" $group "*) ;; *) gpasswd -a "$user" "$group" >/dev/null ;; esac
done
install -d -m 700 -o "$user" -g "$user" "/home/$user/.ssh"
printf '%s\n' "$key" | put "/home/$user/.ssh/authorized_keys" 600
chown "$user:$user" "/home/$user/.ssh/authorized_keys"
printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$user" | put /etc/sudoers.d/90-devbox 440 # sudo reads no name with a dot in it
chmod 750 /etc/sudoers.d

printf '%s\n' "$name" | put /etc/hostname 644
hostname "$name"
grep -q '^127\.0\.1\.1[[:space:]]' /etc/hosts ||
  { cat /etc/hosts && printf '127.0.1.1\t%s\t%s\n' "$whole_name" "$name"; } | put /etc/hosts 644

systemctl is-enabled --quiet systemd-networkd # else the next boot would have no network
put /etc/systemd/network/10-devbox.network 644 <<NETWORK
[Match]
MACAddress=$mac

[Network]
DHCP=ipv4
NETWORK

# systemd has made the id; where /etc was not writable yet it lies in memory so far.
if mountpoint -q /etc/machine-id; then systemd-machine-id-setup --commit; fi
[ -s /etc/machine-id ]

root=$(findmnt -no SOURCE /)
partition=/sys/class/block/${root##*/}
if [ -e "$partition/partition" ]; then
  disk=$(readlink -f "$partition/..")
  disk=/dev/${disk##*/}
  read -r number <"$partition/partition"
  # As growpart does, which takes twenty times as many programs. Nothing else is mounted from this disk.
  echo ',+' | sfdisk --quiet --no-reread --no-tell-kernel --force -N "$number" "$disk" 2>/dev/null
  partx --update --nr "$number" "$disk"
fi
case $(findmnt -no FSTYPE /) in
  ext4) resize2fs "$root" >/dev/null 2>&1 ;;
  xfs) xfs_growfs / >/dev/null ;;
  btrfs) btrfs filesystem resize max / >/dev/null ;;
esac
sync
