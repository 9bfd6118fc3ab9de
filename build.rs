//! Shared by every package that links libtorch: lets its binaries, tests, benches and documentation examples
//! find the library wherever they are started from. (A dependency's link arguments do not reach the packages
//! above it.)

use std::env;
use std::path::{Path, PathBuf};

/// Also a part of the build script that compiles something.
#[allow(unreachable_pub)]
pub fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else { return };
    // Set-up touches this file when it moves the checkout's link; what is not there yet is looked for each time.
    let marker = libtorch.join("build-version");
    if marker.exists() || !libtorch.exists() {
        println!("cargo::rerun-if-changed={}", marker.display());
    }
    // The checkout's `libtorch` is a link into the user's cache; the binary should outlive the checkout.
    let Ok(libtorch) = libtorch.canonicalize() else { return };
    if cfg!(windows) {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        put_on_cargos_path(&libtorch.join("lib"), &out.join("libtorch"));
    } else {
        // `cuda` holds the CUDA backend, if any: a program looks for it when it starts.
        for folder in ["lib", "cuda"] {
            println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libtorch.join(folder).display());
        }
    }
}

/// Windows has no rpath, but cargo puts library folders inside the target folder on the path of what it starts.
fn put_on_cargos_path(lib: &Path, junction: &Path) {
    let lib = lib.to_string_lossy().trim_start_matches(r"\\?\").to_owned();
    let _ = std::fs::remove_dir(junction);
    let made = std::process::Command::new("cmd").args(["/C", "mklink", "/J"]).arg(junction).arg(lib).status();
    if made.is_ok_and(|status| status.success()) {
        println!("cargo::rustc-link-search=native={}", junction.display());
    }
}
