# One HTML page -> one line of JSON {"id", "source", "text"}: paragraphs parted by blank lines, navigation left out.
# usage: awk -v id=NAME -v source=NAME -f html_to_jsonl.awk PAGE     (any POSIX awk; pages shorter than 1,000 bytes are dropped)
BEGIN { RS = "\001" }

function code_point(n) {
  if (n < 128) return sprintf("%c", n)
  if (n == 160) return " "
  if (n < 2048) return sprintf("%c%c", 192 + int(n / 64), 128 + n % 64)
  if (n < 65536) return sprintf("%c%c%c", 224 + int(n / 4096), 128 + int(n / 64) % 64, 128 + n % 64)
  return sprintf("%c%c%c%c", 240 + int(n / 262144), 128 + int(n / 4096) % 64, 128 + int(n / 64) % 64, 128 + n % 64)
}

function hex(digits,   i, value) {
  value = 0
  for (i = 1; i <= length(digits); i++) value = value * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
  return value
}

function entities(s,   out, name) {
  out = ""
  while (match(s, /&#?[A-Za-z0-9]+;/)) {
    name = substr(s, RSTART + 1, RLENGTH - 2)
    out = out substr(s, 1, RSTART - 1)
    s = substr(s, RSTART + RLENGTH)
    if (name == "lt") out = out "<"
    else if (name == "gt") out = out ">"
    else if (name == "amp") out = out "&"
    else if (name == "quot") out = out "\""
    else if (name == "apos") out = out "'"
    else if (name == "nbsp") out = out " "
    else if (name ~ /^#[xX]/) out = out code_point(hex(substr(name, 3)))
    else if (name ~ /^#/) out = out code_point(substr(name, 2) + 0)
  }
  return out s
}

function json(s) {
  gsub(/\\/, "&&", s)
  gsub(/"/, "\\\"", s)
  gsub(/\t/, "\\t", s)
  gsub(/\r/, "", s)
  gsub(/\n/, "\\n", s)
  gsub(/[\001-\037]/, "", s)
  return s
}

function put(s) {
  if (!in_pre) {
    gsub(/[ \t\r\n]+/, " ", s)
    if (at_start) sub(/^ /, "", s)
  }
  if (s == "" || (size == 0 && s ~ /^[ \t\r\n]*$/) || s ~ /^ ?Download the ebook ?$/) return
  if (pending != "" && size > 0) piece[++pieces] = pending
  pending = ""
  piece[++pieces] = s
  size += length(s)
  at_start = (s ~ / $/) && !in_pre
}

function new_block(separator) {
  if (pending != "\n\n") pending = separator
  at_start = 1
}

{
  parts = split($0, part, "<")
  for (i = 2; i <= parts; i++) {
    end = index(part[i], ">")
    if (!end) continue
    tag = tolower(substr(part[i], 1, end - 1))
    body = substr(part[i], end + 1)
    name = tag
    sub(/^\//, "", name)
    sub(/[ \t\r\n\/].*$/, "", name)
    closing = tag ~ /^\//
    if (skipping != "") {
      if (name == skipping && tag !~ /\/$/) depth += closing ? -1 : 1
      if (depth > 0) continue
      skipping = ""
      put(entities(body))
      continue
    }
    if (!closing && (name ~ /^(head|script|style|nav|table|footer)$/ ||
        tag ~ /class="[^"]*(navheader|navfooter|docnav|related|sphinxsidebar|footer|toc|headerlink|producttitle)/)) {
      skipping = name
      depth = 1
      continue
    }
    if (name == "pre") { in_pre = !closing; new_block("\n\n") }
    else if (name ~ /^(p|div|h[1-6]|ul|ol|dl|blockquote|section|title|hr)$/) new_block("\n\n")
    else if (name ~ /^(li|dt|dd|br|tr)$/) new_block("\n")
    put(entities(body))
  }
}

END {
  if (size < 1000) exit
  printf "{\"id\": \"%s\", \"source\": \"%s\", \"text\": \"", json(id), json(source)
  for (i = 1; i <= pieces; i++) printf "%s", json(piece[i])
  print "\"}"
}
