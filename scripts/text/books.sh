# setup_books: the distribution's books (scripts/text/packages.txt) as .cache/text/<package>.jsonl. Source after setup.sh.
# The packages are downloaded and unpacked in .cache/, not installed: containers often leave /usr/share/doc out.
download_book() {
  (
    cd .cache/debs || exit
    rm -f "$1"_*.deb
    apt-get download "$1" || { update_package_lists && apt-get download "$1"; }
  )
}

convert_book() {
  local package=$1 kind=$2 pattern=$3 root=.cache/debs/root-$1 out=.cache/text/$2-$1.jsonl file
  rm -rf "$root" && mkdir -p "$root" .cache/text && dpkg-deb -x .cache/debs/"$package"_*.deb "$root" || return
  for file in "$root"/$pattern; do
    local reader=cat script=html_to_jsonl id
    id=$package/$(basename "$file")
    case $file in *.gz) reader='gzip -dc' ;; esac
    case $file in *.txt | *.txt.gz) script=text_to_jsonl ;; esac
    $reader "$file" | LC_ALL=C awk -v id="$id" -v source="$package" -f "scripts/text/$script.awk" || return
  done >"$out.part"
  rm -rf "$root"
  if [ ! -s "$out.part" ]; then
    echo "$package: no text at $pattern" >&2
    return 1
  fi
  mv "$out.part" "$out"
}

# Fails when not even one book could be had.
setup_books() {
  local package kind pattern
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  mkdir -p .cache/debs .cache/text
  while read -r package kind pattern; do
    case $package in '' | \#*) continue ;; esac
    if [ -s ".cache/text/$kind-$package.jsonl" ]; then continue; fi
    run_step "book: $package" "book-$package" download_book "$package" &&
      run_step "book: $package to text" "book-$package-text" convert_book "$package" "$kind" "$pattern" || true
  done <scripts/text/packages.txt
  ls .cache/text/docs-*.jsonl >/dev/null 2>&1
}
