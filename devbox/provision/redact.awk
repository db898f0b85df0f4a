# Takes the forms of secrets out of a log, in the guest, where it is kept on a disk. `list` is a file of them, the
# longest first: a line with the number of the form's lines and what stands in for it, then these lines.
# For mawk, gawk and BusyBox, in the C locale: text is bytes.
BEGIN {
  ORS = ""
  while ((getline line < list) > 0) {
    lines = line + 0
    mask = substr(line, index(line, " ") + 1)
    form = ""
    for (n = 1; n <= lines; n++) {
      if ((getline line < list) <= 0) { torn = 1; exit 1 }
      form = form (n > 1 ? "\n" : "") line
    }
    forms[++count] = form
    masks[count] = mask
    if (length(form) > longest) longest = length(form)
  }
  if (!count) { torn = 1; exit 1 }
}

{
  text = text $0 "\n"
  if (length(text) > longest + 4096) show(length(text) - longest + 1)
}

END {
  if (torn) exit 1
  show(length(text) + 1)
}

# Prints what stands before the place `limit`, from which on a form may have begun that is not whole yet.
function show(limit,   n, at, from, first, last, found, rest) {
  for (;;) {
    first = 0
    for (n = 1; n <= count; n++) {
      at = index(text, forms[n])
      if (at && (!first || at < first)) { first = at; found = n }
    }
    if (!first || first >= limit) break
    last = first + length(forms[found]) - 1
    # What overlaps it goes with it.
    for (n = 1; n <= count; n++) {
      from = first + 1
      while (from <= last) {
        rest = substr(text, from, last - from + length(forms[n]))
        at = index(rest, forms[n])
        if (!at) break
        from += at
        if (from - 1 + length(forms[n]) - 1 > last) { last = from - 1 + length(forms[n]) - 1; n = 0; break }
      }
    }
    if (last >= limit && limit <= length(text)) { limit = first; break }
    print substr(text, 1, first - 1)
    print masks[found]
    text = substr(text, last + 1)
    limit -= last
  }
  if (limit > 1) {
    print substr(text, 1, limit - 1)
    text = substr(text, limit)
  }
}
