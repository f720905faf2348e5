//! Package managers.

use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_bind};
use testkit::require;

use super::shop::Shop;
use super::{Alone, WEB, check, on_host};

/// Puts one small package of each kind into the folder that it is started in.
const STOCK: &str = include_str!("stock.py");

fn stocked(lines: &str) -> Shop {
    let shop = Shop::with_config(lines);
    on_host(Command::new("python3").current_dir(shop.folder()).args(["-c", STOCK]));
    shop
}

#[test]
fn pip() {
    require!(Bwrap, NetBed, Python, Venv);
    let script = "python3 -m venv venv
        export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
        venv/bin/pip install -q --disable-pip-version-check --index-url https://files.example/simple greeting
        venv/bin/python -c 'import greeting; print(greeting.TEXT)'";
    check(&stocked("").bed, Alone::Works, &WEB, script, "hello from pip\n");
}

#[test]
fn npm() {
    require!(Bwrap, NetBed, Python, Node);
    let script = "export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
        npm install --silent --no-audit --no-fund --registry https://files.example/npm/ greeting
        node -p 'require(\"greeting\")'";
    check(&stocked("").bed, Alone::Works, &WEB, script, "hello from npm\n");
}

#[test]
fn go() {
    require!(Bwrap, NetBed, Python, Go);
    let script = "export GOPROXY=https://files.example/go GOSUMDB=off GOFLAGS=-mod=mod GOPATH=/tmp/go GOCACHE=/tmp/gc
        go mod init app >/dev/null 2>&1
        go get example.org/greeting@v1.0.0 2>/dev/null
        cat $(go list -m -f '{{.Dir}}' example.org/greeting)/greeting.go | tail -1";
    check(&stocked("").bed, Alone::Works, &WEB, script, "// hello from go\n");
}

/// Where a Rust toolchain is shown: rustup's own folder is in somebody's home, which sandboxes never see.
const TOOLCHAIN: &str = "/opt/rust-toolchain";

#[test]
fn cargo() {
    require!(Root, Bwrap, NetBed, Python, Rust);
    let shop = stocked(&format!("bwrap: {{extra_ro_paths: [{TOOLCHAIN}]}}\n"));
    let sysroot = on_host(Command::new("rustc").args(["--print", "sysroot"]));
    // The near side has mounts of its own: the host's /opt stays as it is.
    shop.bed.net.near(move || {
        mount("tmpfs", "/opt", "tmpfs", MountFlags::empty(), c"mode=0755").unwrap();
        std::fs::create_dir(TOOLCHAIN).unwrap();
        mount_bind(sysroot.trim(), TOOLCHAIN).unwrap();
    });
    let script = r#"export PATH=/opt/rust-toolchain/bin:$PATH CARGO_HOME=/tmp/cargo
        mkdir -p src .cargo; touch src/lib.rs
        printf '[registries.shop]\nindex = "sparse+https://files.example/cargo/"\n' > .cargo/config.toml
        printf '[package]\nname = "app"\nversion = "0.1.0"\n[dependencies]\n' > Cargo.toml
        echo 'greeting = { version = "1", registry = "shop" }' >> Cargo.toml
        cargo fetch -q
        tail -1 /tmp/cargo/registry/src/*/greeting-1.0.0/src/lib.rs"#;
    check(&shop.bed, Alone::Works, &WEB, script, "// hello from cargo\n");
}

#[test]
fn apt() {
    require!(Bwrap, NetBed, Python, Apt);
    let script = r#"mkdir -p a/etc a/state/lists/partial a/cache/archives/partial
        touch a/status
        echo 'deb [trusted=yes] http://files.example/apt ./' > a/etc/sources.list
        get() { apt-get -qq -o Dir=$PWD/a -o Dir::Etc=$PWD/a/etc -o Dir::State=$PWD/a/state -o Dir::Cache=$PWD/a/cache \
            -o Dir::State::status=$PWD/a/status -o Dir::Log=$PWD/a "$@"; }
        get update
        get download greeting 2>/dev/null
        dpkg-deb --fsys-tarfile greeting_1.0_all.deb | tar -xO ./usr/share/greeting"#;
    check(&stocked("").bed, Alone::Works, &WEB, script, "hello from apt\n");
}
