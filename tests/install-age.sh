#!/bin/sh
# Puts Debian's age command into a folder, without installing it: install-age.sh FOLDER
set -eu
folder=$1
if command -v age >/dev/null 2>&1; then
    mkdir -p "$folder"
    exit 0
fi
command -v apt-get >/dev/null || { echo "age is needed (https://github.com/FiloSottile/age): install it by your package manager" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
# The package lists may be absent or old on a new machine.
apt-get download age >/dev/null 2>&1 || { apt-get update -qq && apt-get download age >/dev/null; }
dpkg -x age_*.deb .
rm age_*.deb
