//! How does the steering program get into the binary? Clang compiles it, `io::steer` embeds it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

const SOURCE: &str = "src/io/steer.bpf.c";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CLANG");
    let object = PathBuf::from(variable("OUT_DIR")?).join("steer.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", SOURCE, "-o"]);
    command.arg(&object);
    // libbpf's own headers, unpacked by the crate that links it.
    command.arg("-I").arg(variable("DEP_BPF_INCLUDE")?);
    // Debian keeps asm/types.h in a folder per architecture, which clang does not search for BPF.
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));
    let status = command.status().map_err(|error| {
        io::Error::new(error.kind(), format!("{clang} (package clang, or set CLANG): {error}"))
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{clang} could not compile {SOURCE} (needs linux-libc-dev)")))
    }
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}
