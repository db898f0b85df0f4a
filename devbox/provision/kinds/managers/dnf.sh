# dnf 4 and 5, by what both understand. Installing never upgrades what is there; `upgrade` knows only what is installed.
refresh() { patiently dnf -y makecache; }
install() { patiently dnf -y install ${lean:+--setopt=install_weak_deps=False} "$@"; }
upgrade() { patiently dnf -y upgrade "$@"; }
remove() { patiently dnf -y remove "$@"; }
spec() { printf '%s-%s' "$1" "$2"; }
# dnf 4 waits by itself, unless `exit_on_lock` is set: then it ends with 200.
is_locked() { case $status:$said in 200:* | *'transaction lock'* | *'currently holding the'*lock*) ;; *) return 1 ;; esac; }
explain() { :; }
prepare() { :; }
