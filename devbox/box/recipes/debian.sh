# Makes a cloud image's root file system of the Debian in $1: a hook of mmdebstrap, run on the host after the packages
# are in. In the environment: DEVBOX_ARCH, DEVBOX_CONSOLE.
set -eu
root=$1

echo "root=UUID=@ROOT@ ro console=tty0 console=$DEVBOX_CONSOLE" >"$root/etc/kernel/cmdline"
case $DEVBOX_ARCH in
  x86_64) loader=x64 program=BOOTX64.EFI ;;
  aarch64) loader=aa64 program=BOOTAA64.EFI ;;
esac
mkdir -p "$root/boot/efi/EFI/BOOT" "$root/boot/efi/syslinux"
cp "$root/usr/lib/systemd/boot/efi/systemd-boot$loader.efi" "$root/boot/efi/EFI/BOOT/$program"
chroot "$root" /usr/local/sbin/boot-sync --here

chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved
# Nothing that a machine for development does not need, least of all apt's work in the background during a boot.
chroot "$root" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
  systemd-timesyncd.service
chroot "$root" systemctl --quiet enable late-timesync.timer
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"

# What makes a machine that machine is left to its first boot.
: >"$root/etc/machine-id"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"

# mmdebstrap's own: without this no service that is installed later would ever start.
rm -f "$root/usr/sbin/policy-rc.d"
if [ -e "$root/sbin/start-stop-daemon.REAL" ]; then mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"; fi
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*.list "$root"/etc/apt/apt.conf.d/*mmdebstrap \
  "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
find "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/var/cache/debconf" "$root/var/log" -type f \
  ! -name '*.dat' -delete
find "$root/tmp" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
