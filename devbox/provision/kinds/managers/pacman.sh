# pacman: never -Sy alone, since new packages against an old system break it: a new index upgrades the whole guest.
refresh() { patiently pacman -Syu --noconfirm; }
install() { patiently pacman -S --noconfirm --needed "$@"; }
upgrade() { refresh; }
remove() { patiently pacman -R --noconfirm "$@"; }
# A repository has one version of each package: that one, or none.
spec() { case $2 in *[*?[]*) printf '%s' "$1" ;; *) printf '%s=%s' "$1" "$2" ;; esac; }
# The lock is a file, which a pacman that was killed leaves behind; one that runs has it open.
is_locked() {
  case $said in *'unable to lock database'*) ;; *) return 1 ;; esac
  database=$(pacman-conf DBPath 2>/dev/null) || database=/var/lib/pacman/
  lock=${database%/}/db.lck
  set +f
  for open in /proc/[0-9]*/fd/*; do
    if [ "$open" -ef "$lock" ]; then set -f; return 0; fi
  done
  set -f
  [ ! -e "$lock" ] || echo 'Removing the lock of a pacman that no longer runs.'
  rm -f "$lock"
}
explain() { :; }
prepare() { :; }
