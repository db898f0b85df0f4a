# Brings list and key of the repository $name into the state of `$files/list` and $key_file; without them, away.
# `put FILE PATH` stands before it. The key comes first and the list last: a list whose key is not there yet makes the package manager fail.

# A copy of the list, which others write to as well, with this repository's part replaced, taken out or added.
replace_part() {
  inside='' put_down=''
  put_part() { if [ -z "$put_down" ] && [ -e "$files/list" ]; then cat "$files/list"; fi; put_down=1; }
  while IFS= read -r line || [ -n "$line" ]; do
    case $manager:$line in
      apk:"# devbox: $name" | pacman:"[$name]") inside=1; put_part; continue ;;
      pacman:'['*) inside='' ;;
      pacman:'' | pacman:'#'*) printf '%s\n' "$line"; continue ;;
    esac
    if [ -z "$inside" ]; then printf '%s\n' "$line"
    elif [ "$manager" = apk ]; then inside=''; fi
  done
  put_part
}

# zypper and pacman use only keys that they were told to trust.
trust() {
  case $manager in
    zypper) rpm --import "$1" ;;
    pacman)
      pacman-key --add "$1"
      for fingerprint in $(gpg --batch --with-colons --show-keys "$1" | sed -n '/^pub:/{n;s/^fpr:*\([0-9A-Fa-f]*\):*$/\1/p;}'); do
        pacman-key --lsign-key "$fingerprint"
      done
      ;;
  esac
}

find_repository "$name" "$key_name" || fail 'This guest has no package manager that devbox knows (apt, dnf, zypper, apk, pacman).'
# What is known of packages is out of date from here on, even when this is cut off half-way.
rm -f "$state/index"
if [ -n "$key_sha256" ]; then
  source=$files/key
  [ -z "$key_comes" ] || source=$incoming/key
  key=${keys%% *}
  # apt takes an armoured key by the one name and a binary one by the other.
  if [ "$manager" = apt ] && [ -e "$source" ] && ! grep -q -e '-----BEGIN PGP PUBLIC KEY BLOCK' "$source"; then key=${keys##* }; fi
  load_files $keys
  if ! path_state "$key" || ! file_hash "$key" || [ "$hash" != "$key_sha256" ]; then
    [ -e "$source" ] || stale
    trust "$source"
    put "$source" "$key"
  fi
fi
for old in $keys; do
  [ "$old" = "$key" ] || [ ! -e "$old" ] || unwanted="$unwanted $old"
done
case $manager in
  apk | pacman)
    list=$(readlink -f "$list")
    [ -e "$list" ] || : >"$list"
    replace_part <"$list" >"$files/whole"
    put "$files/whole" "$list"
    ;;
  *)
    if [ -e "$files/list" ]; then
      cat "$files/list" >"$files/whole"
      if [ "$manager" = apt ] && [ -n "$key" ]; then printf 'Signed-By: %s\n' "$key" >>"$files/whole"; fi
      put "$files/whole" "$list"
    else rm -f "$list"; fi
    ;;
esac
[ -z "$unwanted" ] || rm -f $unwanted
