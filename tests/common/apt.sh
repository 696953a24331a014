# For scripts that take files out of packages of this system's archive: apt checks the signatures, in folders of its
# own, nothing is installed, and nobody need be root. Sourced with `by_hand` defined, which says why it cannot be done
# and ends.

command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null ||
    by_hand "this system has no apt to get them with"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder" "$work/lists/partial" "$work/archives/partial" "$work/packages"
: > "$work/status"

# apt-get or apt-cache, on lists of its own.
apt() {
    program=$1
    shift
    "$program" -qq -o "Dir::State=$work" -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status" \
        -o "Dir::Cache=$work" -o APT::Architecture=amd64 -o APT::Sandbox::User= "$@"
}

# The kernel that package $1 stands for; nothing if there is no such package.
kernel_of() {
    apt apt-cache depends "$1" 2> /dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1
}

# Unpacks packages into $work/root.
unpack() {
    (cd "$work/packages" && apt apt-get download "$@")
    for package in "$work"/packages/*.deb; do
        dpkg-deb --extract "$package" "$work/root"
    done
}

# Puts $1 into the folder as $2: a file is there only once it is whole.
put() {
    cp "$1" "$folder/$2.part"
    mv "$folder/$2.part" "$folder/$2"
}
