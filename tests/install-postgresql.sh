#!/bin/sh
# Finds PostgreSQL, or puts Debian's into a folder without installing it: install-postgresql.sh FOLDER
# Then the file `where` in it has the programs' folder, and in a second line the folder of the libraries that came with them.
# Debian installs it here: one folder per version.
set -eu
folder=$1
installed=${INSTALLED:-/usr/lib/postgresql}

# The programs of the newest version under a folder.
newest() {
    for found in "$1"/*/bin; do
        [ ! -x "$found/initdb" ] || [ ! -x "$found/postgres" ] || [ ! -x "$found/psql" ] || echo "$found"
    done | sort -V | tail -n 1
}

server() {
    apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p'
}

# The libraries that the server and the client need and this machine lacks. LLVM is for queries that are compiled.
libraries() {
    apt-cache depends --recurse --no-pre-depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
        grep '^lib' | grep -v -e perl -e llvm -e '^libz3' -e '^libc6' | sort -u |
        while read -r package; do
            dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
        done
}

fetch() {
    # The package lists may be old.
    apt-get download "$@" >/dev/null 2>&1 || { apt-get update -qq && apt-get download "$@" >/dev/null; }
    for package in *.deb; do
        dpkg -x "$package" .
        rm "$package"
    done
}

missing() {
    LD_LIBRARY_PATH=$beside ldd "$bin/initdb" "$bin/postgres" "$bin/psql" | grep 'not found'
}

bin=$(newest "$installed")
if [ -n "$bin" ]; then
    mkdir -p "$folder"
    printf '%s\n\n' "$bin" >"$folder/where"
    exit 0
fi
command -v apt-get >/dev/null || { echo "PostgreSQL is needed: install its server and client by your package manager" >&2; exit 1; }
[ -e /usr/share/zoneinfo/UTC ] || { echo "PostgreSQL needs to know the time zones: install tzdata by your package manager" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
[ -n "$(server)" ] || apt-get update -qq
server=$(server)
client=postgresql-client-${server#postgresql-}
fetch "$server" "$client" libpq5
bin=$(newest usr/lib/postgresql)
beside=$(dirname usr/lib/*/libpq.so.5)
if missing >/dev/null; then
    # shellcheck disable=SC2046 # a list of names
    fetch $(libraries "$server" "$client")
    # Some packages put theirs into /lib.
    [ ! -d lib ] || cp -a lib/. usr/lib/
fi
if missing >&2; then
    echo "PostgreSQL is needed, and Debian's packages do not run here: install its server and client by your package manager" >&2
    exit 1
fi
printf '%s\n%s\n' "$folder/$bin" "$folder/$beside" >where
