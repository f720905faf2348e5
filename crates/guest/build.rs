//! Builds the helper: one static executable without a libc and without dependencies, so that it starts quickly and runs in
//! any root directory.
//!
//! rustc is called directly: no nested cargo, no lock to wait for, no second target directory. The flags that leave libc
//! out would reach build scripts and proc-macros if they stood in RUSTFLAGS.
#![allow(clippy::disallowed_methods, reason = "a build script talks to cargo by variables and runs the compiler")]
#![allow(clippy::print_stdout, reason = "cargo reads its instructions there")]

use std::env::{var, var_os};
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(bare)");
    let out = PathBuf::from(var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("nexus-init");
    if var("CARGO_CFG_TARGET_OS")? != "linux" {
        // There are no sandboxes of this kind elsewhere; the constant stays, empty.
        std::fs::write(&out, [])?;
        return Ok(());
    }
    // cargo's own build of the target, which is looked at and not run, has the same entry.
    println!("cargo:rustc-link-arg-bin=nexus-init=-nostartfiles");
    let mut rustc = Command::new(var_os("RUSTC").ok_or("cargo sets RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "nexus_init", "--crate-type", "bin", "src/main.rs"]);
    rustc.args(["--cfg", "bare", "--target", &var("TARGET")?]);
    rustc.args(["-C", "opt-level=s", "-C", "codegen-units=1", "-C", "panic=abort", "-C", "strip=symbols"]);
    // Addresses fixed at build time: nothing has to be relocated at each start, and nobody is there who would.
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
    rustc.args(["-C", "link-args=-nostartfiles -nostdlib"]);
    rustc.args(["--cap-lints", "allow"]);
    if let Ok(linker) = var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.arg("-o").arg(&out).status()?;
    if !status.success() {
        return Err(format!("building the helper failed: {status}").into());
    }
    Ok(())
}
