# Turns the bare Debian in $1 into the tiny guest: a hook of mmdebstrap, before disk.sh. Its own files are in already.
set -eu
root=$1
work=$root/tmp/kernel
mkdir -p "$work" "$root/etc/tiny" "$root/boot/efi/syslinux"
chmod 0755 "$root"/etc/tiny/*

# The kernel package itself is not installed: its scripts would build an initramfs of 20 MB.
package=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
(cd "$work" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --quiet download "$package")
dpkg-deb --extract "$work"/*.deb "$work"
cp "$work"/boot/vmlinuz-* "$root/boot/efi/vmlinuz"
modules=$(echo "$work"/lib/modules/*)
version=${modules##*/}
chroot "$root" depmod --basedir /tmp/kernel "$version" 2>/dev/null
needed() { chroot "$root" modprobe --dirname /tmp/kernel --set-version "$version" --show-depends --all "$@" | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'; }
for file in $(needed virtio_pci virtio_blk virtio_net virtio_rng virtio_console virtio_scsi sd_mod sr_mod isofs evdev button \
  virtiofs overlay vfat nls_ascii nls_cp437 vsock vmw_vsock_virtio_transport); do
  install -D -m 0644 "$root$file" "$root${file#/tmp/kernel}"
done
chroot "$root" depmod "$version" 2>/dev/null

initramfs=$work/initramfs
mkdir -p "$initramfs/bin" "$initramfs/dev" "$initramfs/proc" "$initramfs/sys" "$initramfs/root"
cp "$root/bin/busybox" "$initramfs/bin/busybox"
for file in $(needed virtio_pci virtio_blk); do
  cp "$root$file" "$initramfs/"
  echo "${file##*/}" >>"$initramfs/modules"
done
install -m 0755 "$root/etc/tiny/initramfs-init" "$initramfs/init"
chroot "$root" sh -c "cd /tmp/kernel/initramfs && find . | busybox cpio -o -H newc | gzip -1" >"$root/boot/efi/initrd.img"
cat >"$root/boot/efi/syslinux/syslinux.cfg" <<CFG
DEFAULT tiny
PROMPT 0
LABEL tiny
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND root=UUID=@ROOT@ console=ttyS0,115200 quiet mitigations=off
CFG

ln -sf /bin/busybox "$root/sbin/init"
for name in poweroff halt reboot; do ln -sf /etc/tiny/off "$root/sbin/$name"; done
for name in usleep udhcpc ifconfig route ip ping vi less wget; do [ -e "$root/usr/bin/$name" ] || ln -s /bin/busybox "$root/usr/bin/$name"; done
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
: >"$root/etc/machine-id"
chroot "$root" passwd --quiet --lock root
cat >"$root/etc/ssh/sshd_config" <<CFG
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
Subsystem sftp /usr/lib/openssh/sftp-server
CFG
rm -f "$root/usr/sbin/policy-rc.d"
if [ -e "$root/sbin/start-stop-daemon.REAL" ]; then mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"; fi
find "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root/var/log" -type f -delete
rm -rf "$work"
