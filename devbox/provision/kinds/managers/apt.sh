# apt: one transaction for what comes and what goes. Its own options wait for dpkg's lock, but not for that of the index.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a APT_LISTCHANGES_FRONTEND=none
apt() {
  patiently apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
refresh() { apt update -o Acquire::Languages=none; }  # translations of descriptions: megabytes that nobody reads here
install() { apt install --allow-downgrades ${lean:+--no-install-recommends} "$@"; }
upgrade() { install "$@"; }
remove() { apt remove "$@"; }
# apt takes a pattern only with its `*` at the end; for the others, `  name | version | source`, the newest first.
spec() {
  begin=${2%"*"}
  case $begin in
    *[*?[]*)
      apt-cache madison "$1" 2>/dev/null >"$files/offered" || :
      while IFS='|' read -r _ offered _; do
        offered=${offered#" "} offered=${offered%" "}
        if [ -n "$offered" ] && version_fits "$offered" "$2"; then printf '%s=%s' "$1" "$offered"; return; fi
      done <"$files/offered"
      ;;
  esac
  printf '%s=%s' "$1" "$2"
}
is_locked() { case $said in *'Could not get lock'* | *'Unable to acquire the dpkg frontend lock'* | *'Unable to lock directory'*) ;; *) return 1 ;; esac; }
explain() {
  held=''
  for name in $(apt-mark showhold 2>/dev/null); do
    case " $names " in *" ${name%%:*} "* | *" $name "*) held="$held $name" ;; esac
  done
  [ -z "$held" ] || printf 'Held back in the guest:%s. Let go of them there by `apt-mark unhold%s`, or leave them out.\n' "$held" "$held" >&2
}
prepare() {
  # The first boot of a cloud image holds apt's locks.
  [ ! -e /run/cloud-init ] || [ -e /run/cloud-init/result.json ] || ! have cloud-init || {
    echo 'Waiting for cloud-init to end…'
    limit=''
    ! have timeout || limit='timeout 900'
    $limit cloud-init status --wait >/dev/null 2>&1 || :
  }
  # A dpkg that was cut off must be finished first.
  set +f
  for unfinished in /var/lib/dpkg/updates/[0-9]*; do
    [ ! -e "$unfinished" ] || { dpkg --configure -a; break; }
  done
  set -f
  [ -z "$(dpkg --audit)" ] || dpkg --configure -a
}
