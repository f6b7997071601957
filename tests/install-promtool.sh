#!/bin/sh
# Puts promtool, from Debian's package of Prometheus, into a folder, without installing it: install-promtool.sh FOLDER
set -eu
folder=$1
if command -v promtool >/dev/null 2>&1; then
    mkdir -p "$folder"
    exit 0
fi
command -v apt-get >/dev/null || { echo "promtool is needed (https://prometheus.io/download/): put it on PATH" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
# The package lists may be absent or old on a new machine.
apt-get download prometheus >/dev/null 2>&1 || { apt-get update -qq && apt-get download prometheus >/dev/null; }
dpkg -x prometheus_*.deb unpacked
mkdir bin
mv unpacked/usr/bin/promtool bin/promtool
rm -r unpacked prometheus_*.deb
