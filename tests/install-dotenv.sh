#!/bin/sh
# Puts the readers of dotenv files into a folder, for tests/golden/dotenv.py: node's dotenv and python-dotenv.
#
#   sh tests/install-dotenv.sh FOLDER
set -eu
folder=$1
node_version=18.0.10
python_version=1.2.4
for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "$tool is needed to ask node's dotenv (on Debian: apt-get install nodejs npm)" >&2; exit 1; }
done
mkdir -p "$folder/dotenv-$node_version"
npm pack --silent --pack-destination "$folder" "dotenv@$node_version" >/dev/null
tar -xzf "$folder/dotenv-$node_version.tgz" -C "$folder/dotenv-$node_version"
rm "$folder/dotenv-$node_version.tgz"
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$folder/python-dotenv-$python_version" "python-dotenv==$python_version"
