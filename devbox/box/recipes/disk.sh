# Writes $1/disk.qcow2, a bootable disk, from the finished root file system $1. A hook of mmdebstrap, run on the host
# (as root, or as root of a user namespace), without loop devices. The boot files come from $1/boot/efi, which the
# disk carries as its EFI system partition; the placeholder @ROOT@ in them becomes the root partition's UUID.
# In the environment: DEVBOX_DISK_MIB, DEVBOX_ESP_MIB, DEVBOX_ARCH (x86_64: BIOS too), DEVBOX_GPTMBR (with x86_64).
set -eu
root=$1
work=$root/tmp/disk
mkdir -p "$work/view"
trap 'umount "$work/view/tmp" "$work/view" 2>/dev/null || :' EXIT

root_uuid=$(cat /proc/sys/kernel/random/uuid)
esp_id=$(printf '%.8s' "$(cat /proc/sys/kernel/random/uuid)" | tr a-f A-F)
esp_first=2048
root_first=$((esp_first + DEVBOX_ESP_MIB * 2048))
root_mib=$((DEVBOX_DISK_MIB - DEVBOX_ESP_MIB - 2)) # one MiB before the ESP, one for the second partition table

esp=$work/esp.img
mkdir -p "$work/esp"
cp -R "$root/boot/efi/." "$work/esp/"
find "$work/esp" -name '*.conf' -o -name '*.cfg' | while read -r file; do sed -i "s/@ROOT@/$root_uuid/" "$file"; done
truncate -s "${DEVBOX_ESP_MIB}M" "$esp"
mkfs.vfat -h "$esp_first" -i "$esp_id" -n ESP "$esp" >/dev/null
for entry in "$work/esp"/*; do mcopy -s -i "$esp" "$entry" ::/; done
if [ "$DEVBOX_ARCH" = x86_64 ]; then
  # syslinux hands its open file to mtools as /proc/PID/fd/N. In mmdebstrap's own process namespace (an ordinary user's
  # build) /proc still shows the outer numbers; the new root's shows the right ones.
  [ -z "$(sh -c 'read -r pid _ </proc/self/stat; [ "$pid" = $$ ] || echo outer')" ] || mount --bind "$root/proc" /proc
  syslinux --install --directory /syslinux "$esp"
fi
find "$root/boot/efi" -mindepth 1 -delete
[ ! -e "$root/etc/kernel/cmdline" ] || sed -i "s/@ROOT@/$root_uuid/" "$root/etc/kernel/cmdline"
cat >"$root/etc/fstab" <<FSTAB
UUID=$root_uuid / ext4 defaults,discard,errors=remount-ro 0 1
UUID=$(printf %.4s "$esp_id")-${esp_id#????} /boot/efi vfat noauto,umask=0077 0 0
FSTAB

disk=$work/disk.raw
truncate -s "${DEVBOX_DISK_MIB}M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" <<TABLE
label: gpt
start=$esp_first, size=${DEVBOX_ESP_MIB}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=ESP, attrs="LegacyBIOSBootable"
start=$root_first, size=${root_mib}MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
TABLE
[ "$DEVBOX_ARCH" != x86_64 ] || dd if="$DEVBOX_GPTMBR" of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$esp" of="$disk" bs=1M seek=$((esp_first / 2048)) conv=notrunc,sparse status=none

# A bind mount without what is mounted below shows the root file system itself, without /proc and /sys; the tmpfs
# hides our own work in it.
mount --bind "$root" "$work/view"
mount -t tmpfs -o size=1M,mode=1777 tmp "$work/view/tmp"
mke2fs -q -F -t ext4 -L root -U "$root_uuid" -m 1 -E "offset=$((root_first * 512)),lazy_itable_init=0,lazy_journal_init=0" \
  -d "$work/view" "$disk" "$((root_mib * 1024))k"
umount "$work/view/tmp" "$work/view"
qemu-img convert -f raw -O qcow2 "$disk" "$root/disk.qcow2"
rm -rf "$work"
