# Plain text -> JSON lines {"id", "source", "text"} of about 20,000 bytes, cut between paragraphs. Wrapped lines are joined.
# usage: awk -v id=NAME -v source=NAME -f text_to_jsonl.awk FILE     (any POSIX awk)
BEGIN { RS = ""; number = 0 }

function json(s) {
  gsub(/\\/, "&&", s)
  gsub(/"/, "\\\"", s)
  gsub(/[\001-\037]/, "", s)
  return s
}

function flush_document() {
  if (size > 0) printf "{\"id\": \"%s/%d\", \"source\": \"%s\", \"text\": \"%s\"}\n", json(id), ++number, json(source), text
  text = ""
  size = 0
}

{
  gsub(/[ \t\r\n]+/, " ")
  sub(/^ /, "")
  if ($0 ~ /[^-=_* ]/) {
    text = text (size ? "\\n\\n" : "") json($0)
    size += length($0)
    if (size > 20000) flush_document()
  }
}

END { flush_document() }
