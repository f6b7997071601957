#!/bin/sh
# Puts a program of a Debian package into a folder, without installing it: install-program.sh PROGRAM PACKAGE FOLDER [NAME]
# Then it is FOLDER/usr/bin/PROGRAM. NAME is its name in the package, if that is another one. If PATH has the program, that one is used.
set -eu
program=$1
package=$2
folder=$3
name=${4:-$program}
if command -v "$program" >/dev/null 2>&1; then
    mkdir -p "$folder"
    exit 0
fi
command -v apt-get >/dev/null || { echo "$program is needed: install it by your package manager" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$folder/usr/bin"
cd "$folder"
# The package lists may be absent or old on a new machine.
apt-get download "$package" >/dev/null 2>&1 || { apt-get update -qq && apt-get download "$package" >/dev/null; }
dpkg -x "$package"_*.deb unpacked
# Some packages have it in /bin.
for place in unpacked/usr/bin unpacked/bin; do
    [ ! -e "$place/$name" ] || mv "$place/$name" "usr/bin/$program"
done
[ -e "usr/bin/$program" ] || { echo "$program is not in the package $package" >&2; exit 1; }
rm -r unpacked "$package"_*.deb
