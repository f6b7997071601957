#!/bin/sh
# Puts the programs that read Keyferry's files into a folder, for tests/golden/readers.py: `make readers`.
#
#   sh tests/install-readers.sh FOLDER
#
# If PATH has a program, that one is used. Otherwise it comes from Debian, with the libraries that this machine lacks, unpacked and not installed.
# Then FOLDER/path has what PATH and LD_LIBRARY_PATH need. ABSENT="git psql" treats these as absent: to try this script itself.
set -eu
folder=$1
root=$folder/root

# A program and the Debian package that has it.
programs='git git
java openjdk-17-jdk-headless
keytool openjdk-17-jre-headless
mvn maven
nginx nginx
node nodejs
npm npm
openssl openssl
psql postgresql-client-15
ssh-keygen openssh-client'

absent() {
    case " ${ABSENT:-} " in *" $1 "*) return 0 ;; esac
    ! PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null
}

# The package and all that it needs and this machine lacks.
closure() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" |
        grep '^[a-z0-9]' | grep -v -e '^debconf' -e '^dpkg$' -e '^libc6$' | sort -u |
        while read -r name; do
            [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] && [ "$name" != "$1" ] && continue
            # Virtual packages have no version.
            apt-cache policy "$name" | grep -q 'Candidate: [0-9]' && echo "$name"
        done
}

unpacked() {
    command -v apt-get >/dev/null || { echo "$1 is needed: install it by your package manager" >&2; exit 1; }
    mkdir -p "$root" "$folder/packages"
    (
        cd "$folder/packages"
        [ -n "$(apt-cache policy "$2")" ] || apt-get update -qq
        # shellcheck disable=SC2046 # a list of names
        apt-get download $(closure "$2") >/dev/null 2>&1 || { apt-get update -qq && apt-get download $(closure "$2") >/dev/null; }
        for package in *.deb; do
            dpkg -x "$package" "$root"
            rm "$package"
        done
    )
}

rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
root=$folder/root
echo "$programs" | while read -r program package; do
    absent "$program" && unpacked "$program" "$package"
    true
done
if [ -d "$root" ]; then
    # Links to places of an installed system, such as Java's configuration in /etc.
    find "$root" -type l | while read -r link; do
        target=$(readlink "$link")
        case "$target" in /*) [ ! -e "$root$target" ] || ln -sfn "$root$target" "$link" ;; esac
    done
    [ ! -d "$root/lib" ] || cp -a "$root/lib/." "$root/usr/lib/"
    # What Debian's scripts after an installation would link.
    for java in "$root"/usr/lib/jvm/*/bin; do
        [ ! -d "$java" ] || [ -e "$root/usr/bin/java" ] || for tool in "$java"/*; do ln -s "$tool" "$root/usr/bin/"; done
    done
    [ ! -e "$root/usr/share/maven/bin/mvn" ] || ln -sfn "$root/usr/share/maven/bin/mvn" "$root/usr/bin/mvn"
    [ ! -d "$root/usr/lib/postgresql" ] || ln -sfn "$root"/usr/lib/postgresql/*/bin/psql "$root/usr/bin/psql"
fi
rm -rf "$folder/packages"
printf '%s\n' "$root/usr/bin:$root/usr/sbin" "$(find "$root/usr/lib" -maxdepth 1 -type d -name '*-linux-gnu' 2>/dev/null | head -n 1)" >"$folder/path"

# Libraries: node's and Python's dotenv, Docker's client in Python, Spring Boot's loaders, Kafka's clients.
PATH="$PATH:$(head -n 1 "$folder/path")"
LD_LIBRARY_PATH=$(sed -n 2p "$folder/path")
export PATH LD_LIBRARY_PATH
.venv/bin/pip install --quiet --disable-pip-version-check --target "$folder/python" docker==7.1.0 PyYAML==6.0.3 python-dotenv==1.2.4
npm pack --silent --pack-destination "$folder" dotenv@18.0.10 >/dev/null
tar -xzf "$folder"/dotenv-*.tgz -C "$folder"
mv "$folder/package" "$folder/dotenv"
rm "$folder"/dotenv-*.tgz
mvn --quiet --batch-mode --file tests/golden/readers.pom.xml org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DexcludeTransitive=true \
    "-DoutputDirectory=$folder/jars"
mkdir "$folder/java"
javac -d "$folder/java" -cp "$folder/jars/*" tests/golden/Readers.java
