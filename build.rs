//! Which half of src/system.rs is built, and how the static binary is linked.
//!
//! `cfg(portable)` holds where the system is not Linux, and where `DDOLLAR_PORTABLE` is set: so the
//! half that macOS gets can be built and tested on Linux.
//!
//! A static binary that can be loaded anywhere (static-pie) lists 5,000 addresses to adjust at
//! every start. Packed (DT_RELR; glibc 2.36, binutils 2.38) the list takes 2 kB in the place of
//! 130 kB. Dynamic builds are left alone: they may run on an older glibc.

fn main() {
    let holds = |variable: &str, word: &str| {
        std::env::var(variable).is_ok_and(|words| words.split(',').any(|part| part == word))
    };
    if holds("CARGO_CFG_TARGET_FEATURE", "crt-static") && holds("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let is_linux = holds("CARGO_CFG_TARGET_OS", "linux");
    if !is_linux || std::env::var_os("DDOLLAR_PORTABLE").is_some() {
        println!("cargo::rustc-cfg=portable");
    }
    println!("cargo::rustc-check-cfg=cfg(portable)");
    println!("cargo::rerun-if-env-changed=DDOLLAR_PORTABLE");
    println!("cargo::rerun-if-changed=build.rs");
}
